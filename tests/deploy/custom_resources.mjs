// Validates the resources of KEDA, Gateway API, Envoy Gateway and the Prometheus Operator with the classes that @kubernetes-models makes from
// their Go types. Reads a JSON list from stdin, writes a JSON list of errors, one for each resource.
//     node custom_resources.mjs FOLDER_WITH_NODE_MODULES
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const folder = join(process.argv[2], "node_modules", "@kubernetes-models");
const packages = {
  "keda.sh": "keda",
  "gateway.networking.k8s.io": "gateway-api",
  "gateway.envoyproxy.io": "envoy-gateway",
  "monitoring.coreos.com": "prometheus-operator",
};

async function check(resource) {
  const [group, version] = resource.apiVersion.split("/");
  const file = join(folder, packages[group], group, version, "index.js");
  const types = await import(pathToFileURL(file));
  try {
    new types[resource.kind](resource).validate();
    return null;
  } catch (error) {
    return `${resource.kind} ${resource.metadata.name}: ${error.message}`;
  }
}

const resources = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(await Promise.all(resources.map(check))));
