//! Trouble with TLS: certificates are verified against the system's trust store, always.

use std::{error::Error, io};

use flowline_sdk::Fault;

/// Makes `ring` the process's cryptography, unless there is one already: the HTTP client takes
/// the process's default.
pub(crate) fn install_provider() {
    // An error means that one is installed, which is all that is needed.
    let _already = rustls::crypto::ring::default_provider().install_default();
}

/// A fault if the cause is a peer that cannot be trusted or does not speak TLS: waiting does not
/// help, somebody has to look at it.
pub(crate) fn fault(error: &(dyn Error + 'static), place: &str) -> Option<Fault> {
    match find(error)? {
        rustls::Error::InvalidCertificate(reason) => Some(Fault::misconfigured(
            "tls_certificate",
            format!("{place} shows a certificate that this machine does not trust: {reason}"),
        )),
        cause @ (rustls::Error::InvalidMessage(_) | rustls::Error::PeerIncompatible(_)) => {
            Some(Fault::misconfigured("tls_protocol", format!("{place} does not speak TLS as expected: {cause}")))
        }
        _ => None,
    }
}

/// The TLS error in a chain of causes. An I/O error hides what it wraps from `source`.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(found) = current.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        let wrapped = current.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(found) = wrapped.and_then(|inner| find(inner)) {
            return Some(found);
        }
        cause = current.source();
    }
    None
}
