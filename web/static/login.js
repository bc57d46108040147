import { $, call } from "./dom.js";

const problem = (error) => ($("problem").textContent = error.message);

$("login").addEventListener("submit", async (e) => {
  e.preventDefault();
  $("problem").textContent = "";
  const button = e.submitter || $("login").querySelector("button");
  button.disabled = true;
  try {
    const answer = await call("/api/login", { body: Object.fromEntries(new FormData($("login"))) });
    location.assign(answer.role === "crew" ? "/crew" : `/${location.hash}`);
  } catch (error) {
    problem(error);
    $("password").select();
  } finally {
    button.disabled = false;
  }
});

for (const button of document.querySelectorAll("[data-role]")) {
  button.addEventListener("click", () => call("/api/demo-login", { body: { role: button.dataset.role } }).then(() => location.assign(`/${location.hash}`), problem));
}

// a link from another site comes without the cookie; the page itself has it
call("/api/me").then((me) => me.way === "session" && location.replace(me.role === "crew" ? "/crew" : `/${location.hash}`), () => {});

call("/api/door").then((door) => {
  $("title").textContent = door.title;
  $("demo").hidden = !door.demo;
}, problem);
