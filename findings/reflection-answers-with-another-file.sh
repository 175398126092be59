#!/usr/bin/env bash
# Packages: grpc-node-server-reflection 1.0.2 (npm), which adds the reflection service to a Node server, read
#           by the client in grpc-js-reflection-client 1.4.2. With @grpc/grpc-js 1.14.7 and
#           @grpc/proto-loader 0.8.1.
# Expected: asked for the file that contains a symbol, the server answers with that file, or with the error
#           NOT_FOUND. Each service that it lists can be described.
# Happens:  the answer is the first loaded file whose package name is a part of the symbol's text. With
#           services that are loaded one by one, a second service of the package shop.v1 gets the file of
#           the first, shop.v1beta1 gets that of shop.v1, and so does workshop.v1, which does not exist. The
#           list of services is right, so the client fails with "Not found service" for names that it has
#           just been given. One loadSync call with all files hides it.
# Matters:  a version beside its beta and a package in several files are the usual case. A tool built on
#           reflection shows the first service and can't call the others, although the server serves them.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
echo '{"private": true}' > package.json
npm install --silent --no-audit --no-fund --ignore-scripts grpc-node-server-reflection@1.0.2 \
  grpc-js-reflection-client@1.4.2 @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1

cat > orders.proto <<'PROTO'
syntax = "proto3";
package shop.v1;
message Order { string id = 1; }
service Orders { rpc Watch(Order) returns (stream Order); }
PROTO
cat > users.proto <<'PROTO'
syntax = "proto3";
package shop.v1;
message User { string id = 1; }
service Users { rpc Watch(User) returns (stream User); }
PROTO
cat > beta.proto <<'PROTO'
syntax = "proto3";
package shop.v1beta1;
message Order { string id = 1; }
service Orders { rpc Watch(Order) returns (stream Order); }
PROTO

cat > run.js <<'JS'
const { readFileSync } = require('fs');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');
const { GrpcReflection } = require('grpc-js-reflection-client');
const withReflection = require('grpc-node-server-reflection').default;

const packages = ['grpc-node-server-reflection', 'grpc-js-reflection-client'];
console.log('version:', packages
  .map((name) => `${name} ${JSON.parse(readFileSync(`node_modules/${name}/package.json`)).version}`)
  .join(', '));
const services = {
  'shop.v1.Orders': 'orders.proto',
  'shop.v1.Users': 'users.proto',
  'shop.v1beta1.Orders': 'beta.proto',
};

// A server with the services, each loaded with the files that filesOf gives.
const start = async (filesOf) => {
  const server = withReflection(new grpc.Server());
  for (const name of Object.keys(services)) {
    const loaded = grpc.loadPackageDefinition(loader.loadSync(filesOf(name)));
    const { service } = name.split('.').reduce((within, part) => within[part], loaded);
    server.addService(service, { Watch: (call) => call.end() });
  }
  const port = await new Promise((resolve, reject) => server.bindAsync('127.0.0.1:0',
    grpc.ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound))));
  return { server, client: new GrpcReflection(`127.0.0.1:${port}`, grpc.credentials.createInsecure()) };
};

// The services in the answer for a symbol, and the methods that the client finds in it.
const describe = async (client, symbol) => {
  const names = [];
  const walk = (node, path) => Object.entries(node.nested ?? {}).forEach(([name, child]) => {
    if (child.methods) names.push([...path, name].join('.'));
    walk(child, [...path, name]);
  });
  try {
    walk((await client.getDescriptorBySymbol(symbol)).getProtobufJsRoot().toJSON(), []);
  } catch (error) {
    return error.message;
  }
  const methods = await client.listMethods(symbol)
    .then((all) => all.map(({ name }) => name).join(), (error) => error.message);
  return `${names.join(' and ')}; methods: ${methods}`;
};

(async () => {
  const alone = await start((name) => [services[name]]);
  const together = await start(() => Object.values(services));
  const listed = (await alone.client.listServices()).filter((name) => name in services);
  console.log('listed:', listed.join(', '));
  const seen = [];
  for (const symbol of [...Object.keys(services), 'workshop.v1.Tools']) {
    seen.push(await describe(alone.client, symbol));
    console.log(`${symbol}: expected ${symbol in services ? `${symbol}; methods: Watch` : 'not found'}`);
    console.log(`  seen ${seen.at(-1)}`);
  }
  let found = 0;
  for (const symbol of Object.keys(services)) {
    found += (await describe(together.client, symbol)).endsWith('methods: Watch');
  }
  console.log('loaded by one call: found', found, 'of 3');

  const wrong = 'shop.v1.Orders; methods: Not found service';
  const holds = listed.length === 3 && found === 3 &&
    seen.join('|') === ['shop.v1.Orders; methods: Watch', wrong, wrong, wrong].join('|');
  console.log(holds ? 'still so' : 'CHANGED');
  alone.server.forceShutdown();
  together.server.forceShutdown();
  process.exit(holds ? 0 : 1);
})();
JS
timeout 60 node run.js
