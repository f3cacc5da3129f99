// A server that sends back what it hears, and a client of it, through whatever stands between:
//
//     node --experimental-websocket chat.mjs UPSTREAM GATEWAY

import assert from 'node:assert';
import { createHash } from 'node:crypto';
import { createServer } from 'node:http';

const [upstream, gateway] = process.argv.slice(2);
const [host, port] = upstream.split(':');

// A frame from a client: its opcode, what it says, and what follows.
function frame(bytes) {
  if (bytes.length < 2) return null;
  let length = bytes[1] & 0x7f;
  let at = 2;
  if (length === 126) [length, at] = [bytes.readUInt16BE(2), 4];
  else if (length === 127) [length, at] = [Number(bytes.readBigUInt64BE(2)), 10];
  if (bytes.length < at + 4 + length) return null;
  const mask = bytes.subarray(at, at + 4);
  const said = Buffer.from(bytes.subarray(at + 4, at + 4 + length)).map((byte, i) => byte ^ mask[i % 4]);
  return { opcode: bytes[0] & 0x0f, said, rest: bytes.subarray(at + 4 + length) };
}

function answer(opcode, said) {
  let head = Buffer.from([0x80 | opcode, said.length]);
  if (said.length > 0xffff) {
    head = Buffer.alloc(10);
    head.set([0x80 | opcode, 127]);
    head.writeBigUInt64BE(BigInt(said.length), 2);
  } else if (said.length > 125) {
    head = Buffer.from([0x80 | opcode, 126, said.length >> 8, said.length & 0xff]);
  }
  return Buffer.concat([head, said]);
}

const server = createServer((_, response) => response.end('no'));
server.on('upgrade', (request, socket, early) => {
  const key = request.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11';
  const accept = createHash('sha1').update(key).digest('base64');
  const lines = ['Upgrade: websocket', 'Connection: Upgrade', `Sec-WebSocket-Accept: ${accept}`, 'Sec-WebSocket-Protocol: chat'];
  socket.write(`HTTP/1.1 101 Switching Protocols\r\n${lines.join('\r\n')}\r\n\r\n`);
  let held = early;
  socket.on('data', (bytes) => {
    held = Buffer.concat([held, bytes]);
    for (let it = frame(held); it; it = frame(held)) {
      held = it.rest;
      socket.write(answer(it.opcode, Buffer.from(it.said)));
      if (it.opcode === 8) socket.end();
    }
  });
});
await new Promise((resolve) => server.listen(Number(port), host, resolve));

const client = new WebSocket(`ws://${gateway}/chat`, ['chat', 'other']);
client.binaryType = 'arraybuffer';
const next = () => new Promise((resolve, reject) => {
  client.onmessage = (event) => resolve(event.data);
  client.onerror = () => reject(new Error('it broke off'));
});
await new Promise((resolve, reject) => {
  client.onopen = resolve;
  client.onerror = () => reject(new Error('it does not open'));
});
assert.equal(client.protocol, 'chat');
client.send('hello');
assert.equal(await next(), 'hello');
const large = new Uint8Array(1 << 20).map((_, i) => i % 251);
client.send(large);
assert.deepEqual(new Uint8Array(await next()), large);
const closed = new Promise((resolve) => { client.onclose = resolve; });
client.close(4001, 'done');
const { code, reason, wasClean } = await closed;
assert.deepEqual([code, reason, wasClean], [4001, 'done', true]);
console.log('fine');
process.exit(0);
