//! How bodies are written on the wire: AES-256 in CBC mode under a key that Flowline made for
//! this step, as the step contract says. It hides bodies from readers in passing, nothing more.

use aes::{
    Aes256Dec, Aes256Enc,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, block_padding::Pkcs7},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use sha2::{Digest, Sha256};

/// Writes and reads bodies.
pub(crate) struct Cipher {
    /// The key, worked out once for all messages.
    encryption: Aes256Enc,
    decryption: Aes256Dec,
    start: [u8; 16],
}

impl Cipher {
    /// A cipher; none if the start vector does not have its 16 bytes.
    pub(crate) fn new(password: &str, start: &[u8]) -> Option<Self> {
        let key: [u8; 32] = Sha256::digest(password).into();
        let (encryption, decryption) = (Aes256Enc::new(&key.into()), Aes256Dec::new(&key.into()));
        Some(Self { encryption, decryption, start: start.try_into().ok()? })
    }

    /// Encrypts to bytes.
    pub(crate) fn seal(&self, text: &[u8]) -> Vec<u8> {
        cbc::Encryptor::inner_iv_init(&self.encryption, &self.start.into()).encrypt_padded_vec::<Pkcs7>(text)
    }

    /// Encrypts to base64 text.
    pub(crate) fn seal_text(&self, text: &[u8]) -> String {
        BASE64.encode(self.seal(text))
    }

    /// Decrypts bytes; none if they were not encrypted with this key.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let cipher = cbc::Decryptor::inner_iv_init(&self.decryption, &self.start.into());
        cipher.decrypt_padded_vec::<Pkcs7>(sealed).ok()
    }

    /// Decrypts base64 text.
    pub(crate) fn open_text(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        self.open(&BASE64.decode(sealed.trim_ascii()).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_writes_what_node_writes() {
        let cipher = Cipher::new("testCryptoPassword", b"iv=any16_symbols").unwrap();
        // node: createCipheriv('aes-256-cbc', sha256(password), iv), base64
        let written = "C/TTUWgSF6MegVPoDGffcACuGr+KHhknWJ1Rex/yWSE=";
        assert_eq!(cipher.seal_text(br#"{"body":{"a":1}}"#), written);
        assert_eq!(cipher.open_text(written.as_bytes()).unwrap(), br#"{"body":{"a":1}}"#);
        for garbage in [&b"garbage"[..], b"", b"!!!!", b"AAAAAAAAAAAAAAAAAAAAAA=="] {
            assert!(cipher.open_text(garbage).is_none());
        }
    }
}
