//! Links that cannot be made up: attachments and objects as workers see them carry a proof that
//! this gateway gave the link to their flow.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use flowline_model::{Attachment, FlowName};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use uuid::Uuid;

/// What begins the name of an attachment among the objects.
const ATTACHMENT: &str = "attachment.";
const PROOF_BYTES: usize = 32;

/// The key of the links.
#[derive(Clone)]
pub(crate) struct Seal {
    key: [u8; 32],
}

impl Seal {
    pub(crate) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    fn proof(&self, flow: &FlowName, kind: &str, what: &[u8]) -> Option<Hmac<Sha256>> {
        let mut proof = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        for part in [flow.as_str().as_bytes(), kind.as_bytes(), what] {
            proof.update(&(part.len() as u64).to_be_bytes());
            proof.update(part);
        }
        Some(proof)
    }

    fn seal(&self, flow: &FlowName, kind: &str, what: &[u8]) -> String {
        let proof = self.proof(flow, kind, what).map(|proof| proof.finalize().into_bytes().to_vec());
        let mut sealed = proof.unwrap_or_default();
        sealed.extend_from_slice(what);
        BASE64_URL_SAFE_NO_PAD.encode(sealed)
    }

    fn unseal(&self, flow: &FlowName, kind: &str, sealed: &str) -> Option<Vec<u8>> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (proof, what) = bytes.split_at_checked(PROOF_BYTES)?;
        self.proof(flow, kind, what)?.verify_slice(proof).ok()?;
        Some(what.to_vec())
    }

    /// The name under which a flow's workers find an attachment among the objects.
    pub(crate) fn attachment(&self, flow: &FlowName, attachment: &Attachment) -> String {
        let what = serde_json::to_vec(attachment).unwrap_or_default();
        format!("{ATTACHMENT}{}", self.seal(flow, "attachment", &what))
    }

    /// The attachment of such a name; none if it was not made here for this flow.
    pub(crate) fn open_attachment(&self, flow: &FlowName, name: &str) -> Option<Attachment> {
        let what = self.unseal(flow, "attachment", name.strip_prefix(ATTACHMENT)?)?;
        serde_json::from_slice(&what).ok()
    }

    /// A link to an object that needs no further credential.
    pub(crate) fn object(&self, flow: &FlowName, object: Uuid) -> String {
        self.seal(flow, "object", object.as_bytes())
    }

    pub(crate) fn open_object(&self, flow: &FlowName, sealed: &str) -> Option<Uuid> {
        Uuid::from_slice(&self.unseal(flow, "object", sealed)?).ok()
    }
}

/// Whether a name among the objects is that of an attachment.
pub(crate) fn is_attachment(name: &str) -> bool {
    name.starts_with(ATTACHMENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_opens_for_its_flow_and_for_no_other() {
        let seal = Seal::new([7; 32]);
        let (orders, other) = (FlowName::new("orders").unwrap(), FlowName::new("other").unwrap());
        let attachment =
            Attachment { id: "an/id".into(), name: "a.txt".into(), content_type: "text/plain".into(), size: 4 };
        let name = seal.attachment(&orders, &attachment);
        assert_eq!(seal.open_attachment(&orders, &name), Some(attachment));
        assert_eq!(seal.open_attachment(&other, &name), None);
        assert_eq!(seal.open_object(&orders, name.strip_prefix(ATTACHMENT).unwrap()), None);
        assert_eq!(Seal::new([8; 32]).open_attachment(&orders, &name), None);
    }
}
