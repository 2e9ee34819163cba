// LangChain's image tool for Node, which asks for URLs, style vivid and quality standard.
import { DallEAPIWrapper } from "@langchain/openai";

const options = { apiKey: "none", baseUrl: `${process.argv[2]}/v1` };
const first = async (response) => Buffer.from(await response.arrayBuffer()).subarray(0, 6).toString("base64");
const results = {};

const url = await new DallEAPIWrapper(options).invoke("a red apple");
results.url = url;
results.image = await first(await fetch(url));

results.several = (await new DallEAPIWrapper({ ...options, n: 2 }).invoke("a red apple")).map((part) => part.type);

const base64 = await new DallEAPIWrapper({ ...options, dallEResponseFormat: "b64_json" }).invoke("a red apple");
results.base64 = base64.slice(0, 8);
console.log(JSON.stringify(results));
