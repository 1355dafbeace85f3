// Preload: a server that would listen on every address listens on 127.0.0.1 only.
'use strict';
const { Server } = require('node:net');

// The internal method that every listen() ends in: later than argument parsing, and not asynchronous.
const listen = Server.prototype._listen2;
Server.prototype._listen2 = function (address, port, family, ...rest) {
  const wildcard = address === null || address === undefined || address === '::' || address === '0.0.0.0';
  const tcp = port !== undefined && port !== -1;
  return wildcard && tcp ? listen.call(this, '127.0.0.1', port, 4, ...rest) : listen.call(this, address, port, family, ...rest);
};
