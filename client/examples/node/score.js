// Scores image files from Node: npm install, then node score.js HOST:PORT FILE...
// Prints one line of JSON per file. docs/protocol.md explains every step.
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const TIMEOUT_MS = 60_000; // of a file, retries included
const BACKOFF_MS = [100, 2000]; // first, longest
const IN_FLIGHT = 16;

const proto = new URL("inference.proto", import.meta.url).pathname;
const { inference } = grpc.loadPackageDefinition(loader.loadSync(proto, { keepCase: true }));
const [address, ...files] = process.argv.slice(2);
const client = new inference.GRPCInferenceService(address, grpc.credentials.createInsecure());
let clockOffsetMs = 0; // the server's clock minus this machine's

function request(image, deadline) {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(image.length);
  const deadlineUs = Math.round((deadline + clockOffsetMs) * 1000);
  return {
    model_name: "ma_agiqa",
    id: randomUUID(),
    parameters: { deadline_unix_us: { int64_param: String(deadlineUs) } },
    inputs: [{ name: "IMAGE", datatype: "BYTES", shape: [1, 1] }],
    outputs: [{ name: "SCORE" }, { name: "GATE" }],
    raw_input_contents: [Buffer.concat([length, image])],
  };
}

function infer(image, deadline) {
  return new Promise((resolve, reject) =>
    client.ModelInfer(request(image, deadline), { deadline }, (error, answer) =>
      error ? reject(error) : resolve(answer)));
}

async function score(image) {
  const deadline = Date.now() + TIMEOUT_MS;
  for (let tries = 0, corrected = false; ; tries++) {
    try {
      const answer = await infer(image, deadline);
      const names = answer.outputs.map((output) => output.name);
      const raw = (name) => answer.raw_output_contents[names.indexOf(name)];
      const gate = [0, 4, 8].map((at) => raw("GATE").readFloatLE(at));
      return { mos: raw("SCORE").readFloatLE(0), gate };
    } catch (error) {
      const clock = /DEADLINE_EXCEEDED.*server clock (\d+) us/.exec(error.details ?? "");
      const restricted = /protocol is restricted/.test(error.details ?? "");
      const down = error.code === grpc.status.UNAVAILABLE && !restricted
        || /^CANCELLED$|has no available versions|Stub process .* is not healthy/.test(error.details ?? "");
      const wait = Math.min(BACKOFF_MS[0] * 2 ** tries, BACKOFF_MS[1]) * (1 - Math.random() / 2);
      if (clock && !corrected) {
        clockOffsetMs = Number(clock[1]) / 1000 - Date.now();
        corrected = true; // send it once more, with the server's time
      } else if (down && Date.now() + wait < deadline) {
        await new Promise((resolve) => setTimeout(resolve, wait));
      } else {
        throw error;
      }
    }
  }
}

async function work() {
  for (let file; (file = files.shift()) !== undefined;) {
    try {
      console.log(JSON.stringify({ file, ...(await score(await readFile(file))) }));
    } catch (error) {
      const code = grpc.status[error.code] ?? error.code;
      console.log(JSON.stringify({ file, error: error.details ?? error.message, code }));
      process.exitCode = 1;
    }
  }
}

await Promise.all(Array.from({ length: IN_FLIGHT }, work));
client.close();
