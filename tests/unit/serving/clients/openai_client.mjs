// The package `openai` for Node: generate, stream, an error within a stream, and an upload.
import OpenAI, { toFile } from "openai";

const url = process.argv[2];
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none" });
const prompt = "a red apple";
const results = {};

function describe(error) {
  return { name: error.constructor.name, status: error.status ?? null, code: error.code, type: error.type, param: error.param };
}

async function failure(promise) {
  try {
    await promise;
    return null;
  } catch (error) {
    return describe(error);
  }
}

const answer = await client.images.generate({ model: "icons", prompt, n: 2, size: "512x512", seed: 7 });
results.generate = {
  images: answer.data.map((item) => item.b64_json.slice(0, 8)),
  size: answer.size,
  usage: answer.usage,
  seeds: answer.bitvar.seeds,
};

const events = [];
for await (const event of await client.images.generate({ prompt, stream: true, partial_images: 2, seed: 7 })) {
  events.push({ type: event.type, index: event.partial_image_index ?? null, image: event.b64_json.slice(0, 8), usage: event.usage ?? null });
}
results.stream = events;

// A stream whose request is cancelled by its id.
const { data: stream, request_id: id } = await client.images.generate({ prompt, stream: true, partial_images: 2 }).withResponse();
await client.delete(`/requests/${id}`);
results.streamError = await failure((async () => { for await (const _ of stream); })());

// Leaving a stream early.
const left = await client.images.generate({ prompt, stream: true, partial_images: 3 });
for await (const _ of left) break;

const source = Buffer.from(answer.data[0].b64_json, "base64");
const file = (bytes) => toFile(bytes, "a.png", { type: "image/png" });
const edited = await client.images.edit({ image: await file(source), prompt: "a green pear", n: 2, strength: 0.5 });
results.edit = { images: edited.data.map((item) => item.b64_json.slice(0, 8)), kept: edited.bitvar.edit.kept_scales };
results.editStream = [];
for await (const event of await client.images.edit({ image: [await file(source)], prompt, stream: true, partial_images: 2 })) results.editStream.push(event.type);
results.editError = await failure(client.images.edit({ image: await file(Buffer.alloc(3 << 20, 1)), prompt }, { maxRetries: 0 }));
results.size = await failure(client.images.generate({ prompt, size: "100x100" }));
results.models = (await client.models.list()).data.map((model) => model.id);
console.log(JSON.stringify(results));
