//! How callers prove who they are. A refusal never says which part was wrong, and comparing takes
//! the same time whatever is wrong.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use flowline_sdk::prelude::*;
use futures::{StreamExt, stream};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Digest, Sha256, Sha512};
use subtle::ConstantTimeEq;

/// How far a signature's time may be from ours, in seconds.
const TOLERANCE: u64 = 300;
/// The most signatures of one request that are tried.
const MOST_SIGNATURES: usize = 8;

/// How callers prove who they are.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Verify {
    /// Not at all: anybody may call.
    #[default]
    None,
    /// With a user name and a password (HTTP basic authentication).
    Basic(Basic),
    /// With a key in a header or a query parameter.
    ApiKey(ApiKey),
    /// With a signature of the body made with a shared secret.
    Hmac(Signature),
}

/// A user name and a password.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Basic {
    /// The user name.
    user: String,
    /// The password.
    password: String,
}

/// A key in a header or a query parameter.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKey {
    /// The header that holds the key: `x-api-key` unless said.
    #[serde(default)]
    header: Option<String>,
    /// The query parameter that holds the key, instead of a header.
    #[serde(default)]
    query: Option<String>,
    /// The whole value of the header or parameter.
    value: String,
}

/// A signature of the body made with a shared secret.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Signature {
    /// The shared secret.
    secret: String,
    /// Who signs: sets what is not said below.
    #[serde(default)]
    preset: Option<Preset>,
    /// The header that holds the signature: `x-signature` unless said.
    #[serde(default)]
    header: Option<String>,
    /// The hash function.
    #[serde(default)]
    algorithm: Algorithm,
    /// How the signature is written.
    #[serde(default)]
    encoding: Encoding,
    /// What stands before the signature in the header, such as `sha256=`.
    #[serde(default)]
    prefix: Option<String>,
}

/// A sender whose way to sign is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Preset {
    /// `x-hub-signature-256: sha256=…`.
    Github,
    /// `stripe-signature: t=…,v1=…` over time and body.
    Stripe,
    /// `x-slack-signature: v0=…` over time and body.
    Slack,
}

/// A hash function.
#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Algorithm {
    /// SHA-256.
    #[default]
    Sha256,
    /// SHA-1.
    Sha1,
    /// SHA-512.
    Sha512,
}

/// How bytes are written as text.
#[derive(Clone, Copy, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Encoding {
    /// Two digits for each byte.
    #[default]
    Hex,
    /// Base64 with padding.
    Base64,
}

/// The header in which Slack says when it signed.
const SLACK_TIME: &str = "x-slack-request-timestamp";

impl Verify {
    /// Returns the request, without what proves it, if it is what it claims to be. A body that is
    /// signed is read whole.
    pub(super) async fn check(
        &self,
        mut request: Request,
        body_limit: Size,
        now: Timestamp,
    ) -> Result<Request, Refusal> {
        if self.lacks_secret() {
            return Err(Refusal::new(500, "config_invalid", "the webhook has no secret to verify requests with"));
        }
        let proven = match self {
            Self::None => true,
            Self::Basic(basic) => basic.fits(&request),
            Self::ApiKey(key) => key.fits(&request),
            Self::Hmac(signature) => {
                // What bears no signature that could be right is not worth reading.
                let claim = signature.claim(&request, now).ok_or_else(|| self.refusal())?;
                let body = request.bytes(body_limit).await?;
                let proven = signature.fits(&claim, &body);
                request.body = stream::once(async { Ok::<Bytes, _>(body) }).boxed();
                proven
            }
        };
        if !proven {
            return Err(self.refusal());
        }
        self.remove_proof(&mut request);
        Ok(request)
    }

    /// Takes keys and signatures away, so that they are stored nowhere.
    fn remove_proof(&self, request: &mut Request) {
        request.headers.retain(|(name, _)| !self.uses_header(name));
        if let Self::ApiKey(ApiKey { query: Some(key), .. }) = self {
            let kept = url::form_urlencoded::parse(request.query.as_bytes()).filter(|(name, _)| name != key.as_str());
            let kept = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(kept).finish();
            request.query = kept;
        }
    }

    /// Whether a header is only there to prove something.
    fn uses_header(&self, name: &str) -> bool {
        let is = |used: &str| used.eq_ignore_ascii_case(name);
        match self {
            Self::None | Self::Basic(_) => false,
            Self::ApiKey(key) => key.header().is_some_and(is),
            Self::Hmac(signature) => {
                is(signature.header()) || signature.preset == Some(Preset::Slack) && is(SLACK_TIME)
            }
        }
    }

    /// The sender whose way to sign is used.
    pub(super) fn preset(&self) -> Option<Preset> {
        match self {
            Self::Hmac(signature) => signature.preset,
            _ => None,
        }
    }

    /// An empty secret, as from a variable that was never set, would let anybody in.
    fn lacks_secret(&self) -> bool {
        match self {
            Self::None => false,
            Self::Basic(basic) => basic.password.is_empty(),
            Self::ApiKey(key) => key.value.is_empty(),
            Self::Hmac(signature) => signature.secret.is_empty(),
        }
    }

    fn refusal(&self) -> Refusal {
        let refusal = Refusal::new(401, "unauthorized", "the request does not prove who sent it");
        match self {
            Self::Basic(_) => refusal.header("www-authenticate", "Basic realm=\"flowline\", charset=\"UTF-8\""),
            _ => refusal,
        }
    }
}

/// Whether two texts are the same, in a time that tells nothing about either.
fn same(given: &[u8], expected: &[u8]) -> bool {
    Sha256::digest(given).ct_eq(&Sha256::digest(expected)).into()
}

impl Basic {
    fn fits(&self, request: &Request) -> bool {
        let Some((user, password)) = request.header("authorization").and_then(basic_credentials) else { return false };
        same(&user, self.user.as_bytes()) & same(&password, self.password.as_bytes())
    }
}

/// User name and password of an `authorization` header (RFC 7617).
fn basic_credentials(authorization: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(encoded.trim()).ok()?;
    let colon = decoded.iter().position(|&byte| byte == b':')?;
    Some((decoded[..colon].to_vec(), decoded[colon + 1..].to_vec()))
}

impl ApiKey {
    /// The header that may hold the key; none if it is a query parameter.
    fn header(&self) -> Option<&str> {
        match (&self.header, &self.query) {
            (None, Some(_)) => None,
            (header, _) => Some(header.as_deref().unwrap_or("x-api-key")),
        }
    }

    fn fits(&self, request: &Request) -> bool {
        let in_header = self.header().and_then(|name| request.header(name));
        if in_header.is_some_and(|given| same(given.as_bytes(), self.value.as_bytes())) {
            return true;
        }
        let Some(query) = &self.query else { return false };
        let mut parameters = url::form_urlencoded::parse(request.query.as_bytes());
        let given = parameters.find_map(|(name, value)| (name == query.as_str()).then_some(value));
        given.is_some_and(|given| same(given.as_bytes(), self.value.as_bytes()))
    }
}

/// What a request claims about its signature.
struct Claim {
    /// What was signed before the body.
    before_body: String,
    /// The signatures, one of which must be right.
    signatures: Vec<Vec<u8>>,
}

impl Signature {
    fn header(&self) -> &str {
        self.header.as_deref().unwrap_or(match self.preset {
            None => "x-signature",
            Some(Preset::Github) => "x-hub-signature-256",
            Some(Preset::Stripe) => "stripe-signature",
            Some(Preset::Slack) => "x-slack-signature",
        })
    }

    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or(match self.preset {
            None => "",
            Some(Preset::Github) => "sha256=",
            Some(Preset::Stripe) => "v1=",
            Some(Preset::Slack) => "v0=",
        })
    }

    /// What a request claims; none if that cannot be right or is too old.
    fn claim(&self, request: &Request, now: Timestamp) -> Option<Claim> {
        let value = request.header(self.header())?;
        let claim = match self.preset {
            None | Some(Preset::Github) => {
                Claim { before_body: String::new(), signatures: self.signature(value).into_iter().collect() }
            }
            Some(Preset::Slack) => {
                let time = current(request.header(SLACK_TIME)?, now)?;
                let version = self.prefix().trim_end_matches('=');
                Claim {
                    before_body: format!("{version}:{time}:"),
                    signatures: self.signature(value).into_iter().collect(),
                }
            }
            Some(Preset::Stripe) => {
                let elements = || value.split(',').map(str::trim);
                let time = current(elements().find_map(|element| element.strip_prefix("t="))?, now)?;
                let signatures = elements().filter_map(|element| self.signature(element));
                Claim { before_body: format!("{time}."), signatures: signatures.take(MOST_SIGNATURES).collect() }
            }
        };
        (!claim.signatures.is_empty()).then_some(claim)
    }

    /// The bytes of a signature as it is written behind its prefix.
    fn signature(&self, text: &str) -> Option<Vec<u8>> {
        let written = text.trim().strip_prefix(self.prefix())?;
        match self.encoding {
            Encoding::Hex => hex::decode(written).ok(),
            Encoding::Base64 => BASE64_STANDARD.decode(written).ok(),
        }
    }

    fn fits(&self, claim: &Claim, body: &[u8]) -> bool {
        let is_right = match self.algorithm {
            Algorithm::Sha256 => is_right::<Hmac<Sha256>>,
            Algorithm::Sha1 => is_right::<Hmac<Sha1>>,
            Algorithm::Sha512 => is_right::<Hmac<Sha512>>,
        };
        is_right(self.secret.as_bytes(), claim, body)
    }
}

/// The time as it is written, if it is close to ours: an old request may be a repeated one.
fn current(written: &str, now: Timestamp) -> Option<&str> {
    let seconds: i64 = written.parse().ok()?;
    (now.as_millis().div_euclid(1_000).abs_diff(seconds) <= TOLERANCE).then_some(written)
}

fn is_right<M: Mac + KeyInit + Clone>(secret: &[u8], claim: &Claim, body: &[u8]) -> bool {
    let Ok(mut mac) = <M as KeyInit>::new_from_slice(secret) else { return false };
    mac.update(claim.before_body.as_bytes());
    mac.update(body);
    claim.signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
}
