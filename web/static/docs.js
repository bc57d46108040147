// A plain list of what the API offers, read from its own description.
import { $, call, h } from "./dom.js";

const spec = await call("/api/openapi.json");
const groups = new Map();
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, op] of Object.entries(methods)) {
    const tag = op.tags?.[0] || "other";
    if (!groups.has(tag)) groups.set(tag, []);
    groups.get(tag).push({ path, method, op });
  }
}
$("list").replaceChildren(
  ...[...groups].flatMap(([tag, list]) => [
    h("h2", {}, tag),
    h(
      "table",
      {},
      h("tbody", {}, ...list.map(({ path, method, op }) => h("tr", {}, h("th", { scope: "row" }, h("code", {}, `${method.toUpperCase()} ${path}`)), h("td", {}, op.description || op.summary || "")))),
    ),
  ]),
);
