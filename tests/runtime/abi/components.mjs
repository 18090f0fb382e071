// Wraps every *.core.wasm of a folder as a component: node components.mjs FOLDER WIT NODE_MODULES
import { readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, wit, modules] = process.argv.slice(2);
// Where jco keeps the two functions, and all of it that is needed here.
const tools = join(modules, '@bytecodealliance', 'jco-transpile', 'dist', 'wasm-tools.js');
const { componentEmbed, componentNew } = await import(pathToFileURL(tools));
const witSource = readFileSync(wit, 'utf8');
for (const name of readdirSync(folder).filter((name) => name.endsWith('.core.wasm'))) {
  const embedded = await componentEmbed({ binary: readFileSync(join(folder, name)), witSource, worldName: 'guest' });
  writeFileSync(join(folder, name.replace('.core.wasm', '.component.wasm')), await componentNew(embedded, []));
}
