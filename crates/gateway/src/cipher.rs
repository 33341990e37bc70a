//! How messages are hidden on the wire: AES-256-CBC as the step contract says, with one key for
//! each step. It hides from whoever listens; it proves nothing.

use aes::{
    Aes256Dec, Aes256Enc,
    cipher::{BlockModeDecrypt, BlockModeEncrypt, InnerIvInit, KeyInit, block_padding::Pkcs7},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

/// What is not encrypted with our key, or not as its header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the body is not encrypted with this step's key")]
pub(crate) struct Undecipherable;

/// A step's key.
pub(crate) struct Cipher {
    password: String,
    iv: String,
    /// The key, worked out once for all messages.
    encryption: Aes256Enc,
    decryption: Aes256Dec,
}

impl Cipher {
    /// A key that nobody else has.
    pub(crate) fn random() -> Self {
        Self::new(hex::encode(rand::random::<[u8; 32]>()), hex::encode(rand::random::<[u8; 8]>()))
    }

    /// The key of a password; `iv` is sixteen bytes long.
    fn new(password: String, iv: String) -> Self {
        let key: [u8; 32] = Sha256::digest(password.as_bytes()).into();
        let (encryption, decryption) = (Aes256Enc::new(&key.into()), Aes256Dec::new(&key.into()));
        Self { password, iv, encryption, decryption }
    }

    /// What the worker is told.
    pub(crate) fn secrets(&self) -> (&str, &str) {
        (&self.password, &self.iv)
    }

    fn initial(&self) -> [u8; 16] {
        let mut iv = [0; 16];
        let text = self.iv.as_bytes();
        let length = text.len().min(16);
        iv[..length].copy_from_slice(&text[..length]);
        iv
    }

    pub(crate) fn encrypt(&self, plain: &[u8]) -> Vec<u8> {
        cbc::Encryptor::inner_iv_init(&self.encryption, &self.initial().into()).encrypt_padded_vec::<Pkcs7>(plain)
    }

    pub(crate) fn decrypt(&self, hidden: &[u8]) -> Result<Vec<u8>, Undecipherable> {
        cbc::Decryptor::inner_iv_init(&self.decryption, &self.initial().into())
            .decrypt_padded_vec::<Pkcs7>(hidden)
            .map_err(|_| Undecipherable)
    }

    /// As text: protocol version 1.
    pub(crate) fn encrypt_text(&self, plain: &[u8]) -> String {
        BASE64_STANDARD.encode(self.encrypt(plain))
    }

    pub(crate) fn decrypt_text(&self, hidden: &[u8]) -> Result<Vec<u8>, Undecipherable> {
        self.decrypt(&BASE64_STANDARD.decode(hidden).map_err(|_| Undecipherable)?)
    }

    /// Opens a body of either protocol version: text below 2, bytes from 2 on.
    pub(crate) fn open(&self, version: i64, hidden: &[u8]) -> Result<Vec<u8>, Undecipherable> {
        if version < 2 { self.decrypt_text(hidden) } else { self.decrypt(hidden) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encrypts_as_the_node_runtime_does() {
        // crypto.createCipheriv('aes-256-cbc', sha256('testCryptoPassword'), 'iv=any16_symbols')
        let cipher = Cipher::new("testCryptoPassword".into(), "iv=any16_symbols".into());
        let plain = br#"{"body":{"a":1}}"#;
        assert_eq!(cipher.encrypt_text(plain), "C/TTUWgSF6MegVPoDGffcACuGr+KHhknWJ1Rex/yWSE=");
        assert_eq!(cipher.open(1, cipher.encrypt_text(plain).as_bytes()).unwrap(), plain);
        assert_eq!(cipher.open(2, &cipher.encrypt(plain)).unwrap(), plain);
        assert_eq!(cipher.open(2, plain), Err(Undecipherable));
        assert_eq!(cipher.open(1, b"?"), Err(Undecipherable));
    }
}
