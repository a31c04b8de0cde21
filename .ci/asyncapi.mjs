// Checks an AsyncAPI document with the specification's own parser: references,
// schemas and the examples in them.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const [tools, file] = process.argv.slice(2);
const { Parser } = createRequire(resolve(tools, "package.json"))("@asyncapi/parser");

const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"), { source: resolve(file) });
const bad = diagnostics.filter((d) => d.severity <= 1); // errors and warnings
for (const d of bad) {
  console.error(`${file}:${d.range.start.line + 1}: ${d.message} (${d.code})`);
}
if (bad.length > 0 || document === undefined) {
  process.exit(1);
}
const operations = document.operations().all().length;
const messages = document.messages().all().length;
if (operations === 0 || messages === 0) {
  console.error(`${file}: no operations or no messages`);
  process.exit(1);
}
console.log(`${file}: AsyncAPI ${document.version()}, ${operations} operations, ${messages} messages`);
