'use strict';
// Whether a broker answers: ends with 0 if it does.
require('amqplib')
    .connect(`${process.argv[2]}?frameMax=131072`)
    .then((connection) => connection.close())
    .catch(() => process.exit(1));
