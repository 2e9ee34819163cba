// The AI SDK with both of its providers.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false;
const baseURL = `${process.argv[2]}/v1`;
const prompt = "a red apple";
const results = {};
const providers = {
  openai: createOpenAI({ baseURL, apiKey: "none" }),
  compatible: createOpenAICompatible({ name: "bitvar", baseURL, apiKey: "none" }),
};

for (const [name, provider] of Object.entries(providers)) {
  const model = provider.imageModel("icons");
  const { images, warnings, responses } = await generateImage({ model, prompt, n: 3, size: "512x512", seed: 5 });
  results[name] = {
    images: images.map((image) => ({ base64: image.base64.slice(0, 8), mediaType: image.mediaType })),
    calls: responses.length,
    warnings: warnings.map((warning) => warning.feature ?? warning.setting),
  };
  const usual = await generateImage({ model: provider.imageModel("gpt-image-1"), prompt });
  results[name].usual = usual.image.base64.slice(0, 8);
  try {
    await generateImage({ model, prompt, size: "100x100" });
  } catch (error) {
    results[name].error = { status: error.statusCode, retryable: error.isRetryable, message: error.message };
  }
  const { image } = await generateImage({ model, prompt: { text: "a green pear", images: [Buffer.from(usual.image.base64, "base64")] }, maxRetries: 0 });
  results[name].edit = { image: image.base64.slice(0, 8) };
}

const seeded = [];
for (const seed of [7, 7, 8]) {
  const model = providers.compatible.imageModel("icons");
  const { image } = await generateImage({ model, prompt, providerOptions: { bitvar: { seed, guidance_scale: 2 } } });
  seeded.push(image.base64);
}
results.seeded = [seeded[0] === seeded[1], seeded[0] === seeded[2]];
console.log(JSON.stringify(results));
