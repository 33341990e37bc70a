'use strict';

// Whether a credential is right; asked before it is used.
module.exports = async function verifyCredentials(credential) {
    if (credential.token === 'sample') return { verified: true };
    return { verified: false, reason: 'the token is not the word "sample"' };
};
