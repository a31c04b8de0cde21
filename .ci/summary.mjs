// Reads the events of `go test -json` and writes what `go test` would: a line
// for each package, the output of what failed, and at the end one line that
// counts the tests. Exit status 1 if anything failed or nothing ran.
import { createInterface } from "node:readline";

const count = { pass: 0, fail: 0, skip: 0 };
const packages = { ok: 0, failed: 0 };
const output = new Map(); // of each test that has not ended, and of each package
const skipped = [];

const keyOf = (e) => `${e.Package ?? e.ImportPath} ${e.Test ?? ""}`;

for await (const line of createInterface({ input: process.stdin })) {
  let e;
  try {
    e = JSON.parse(line);
  } catch {
    console.log(line); // not an event: the go command itself speaks
    continue;
  }
  const key = keyOf(e);
  switch (e.Action) {
    case "output":
      output.set(key, (output.get(key) ?? "") + e.Output);
      break;
    case "build-output":
      process.stdout.write(e.Output);
      break;
    case "pass":
    case "fail":
    case "skip":
      if (e.Test) {
        count[e.Action]++;
        if (e.Action === "fail") {
          process.stdout.write(output.get(key) ?? "");
        } else if (e.Action === "skip") {
          skipped.push(`${e.Package} ${e.Test}`);
        }
      } else if (e.Action === "pass") {
        packages.ok++;
        console.log(`ok    ${e.Package}  ${e.Elapsed.toFixed(1)} s`);
      } else if (e.Action === "fail") {
        packages.failed++;
        for (const [k, text] of output) {
          if (k.startsWith(`${e.Package} `)) {
            process.stdout.write(text); // of what never ended: a crash, a time-out
          }
        }
        console.log(`FAIL  ${e.Package}`);
      }
      output.delete(key);
  }
}

for (const name of skipped) {
  console.log(`skipped: ${name}`);
}
console.log(`${packages.ok} packages ok, ${packages.failed} failed`);
console.log(`tests: ${count.pass} passed, ${count.fail} failed, ${count.skip} skipped`);
process.exit(packages.failed > 0 || count.fail > 0 || count.skip > 0 || count.pass === 0 ? 1 : 0);
