// npm's ws as an app would use it: `node ws_client.js URL TOKEN`. Acks what it gets; says what happens, a line each.
"use strict";

const WebSocket = require("ws");

const [url, token] = process.argv.slice(2);
const socket = new WebSocket(url, ["herald.v1"], { headers: { Authorization: `Bearer ${token}` } });
const say = (value) => console.log(JSON.stringify(value));

socket.on("open", () => say({ open: socket.protocol }));
socket.on("message", (data, isBinary) => {
  const frame = JSON.parse(data);
  say({ frame, isBinary });
  if (frame.t === "n") socket.send(JSON.stringify({ t: "ack", ids: [frame.id] }));
});
socket.on("close", (code, reason) => say({ close: code, reason: reason.toString() }));
socket.on("error", (error) => say({ error: error.message }));
