// Keeps the crew page itself at hand, so that it opens without a network, or with one that hardly answers. Never keeps answers of the API,
// never keeps a token.
const SHELF = "underway-crew-1";
const SLOW_MS = 4000; // a network that takes longer counts as none when the page is at hand
const SHELL = ["/crew", "/static/crew.css", "/static/crew.js", "/static/crew-words.js", "/static/dom.js", "/static/map.js", "/static/words.js", "/static/icon.svg"];

self.addEventListener("install", (e) => e.waitUntil(caches.open(SHELF).then((c) => c.addAll(SHELL)).then(() => self.skipWaiting())));
self.addEventListener("activate", (e) => e.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (e) => {
  const url = new URL(e.request.url);
  if (e.request.method !== "GET" || url.origin !== location.origin || url.pathname.startsWith("/api/")) return;
  const kept = e.request.mode === "navigate" ? "/crew" : url.pathname;
  if (!SHELL.includes(kept)) return;
  const shelf = () => caches.open(SHELF).then((c) => c.match(kept));
  const network = fetch(e.request).then((answer) => {
    if (answer.ok) {
      const copy = answer.clone();
      e.waitUntil(caches.open(SHELF).then((c) => c.put(kept, copy)));
    }
    return answer;
  });
  const slow = new Promise((done) => setTimeout(done, SLOW_MS)).then(shelf).then((found) => found || network);
  slow.catch(() => {}); // said by the network already
  e.respondWith(Promise.race([network, slow]).catch(() => shelf().then((found) => found || Response.error())));
});
