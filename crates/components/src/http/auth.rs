//! Authentication: how a request proves who sends it.
//!
//! OAuth 2 tokens are kept until shortly before they end and fetched once for all runs that wait
//! for one. Secrets never stand in a fault.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use flowline_sdk::{Fault, Size};
use reqwest::{
    Client, RequestBuilder,
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Map;
use url::form_urlencoded::byte_serialize;

use super::{
    answer,
    faults::{self, Refused},
    target,
};

/// How to authenticate.
#[derive(Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Auth {
    /// Not at all.
    #[default]
    None,
    /// With user and password.
    Basic(Basic),
    /// With a token in the `Authorization` header.
    Bearer(Bearer),
    /// With a key in a header of the service's own. Redirects to another host are refused then.
    Header(KeyHeader),
    /// With a token that the service's authorization server gives (client credentials).
    Oauth2(OAuth2),
}

/// User and password.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Basic {
    /// The user's name.
    user: String,
    /// The password.
    password: String,
}

/// A token.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bearer {
    /// The token, without the word `Bearer`.
    token: String,
}

/// A key in a header.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyHeader {
    /// The header's name, such as `x-api-key`.
    name: String,
    /// Its value.
    value: String,
}

/// OAuth 2 client credentials.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OAuth2 {
    /// Where tokens are given.
    token_url: String,
    /// The client's id.
    client_id: String,
    /// The client's secret.
    client_secret: String,
    /// What the token shall allow, if the server asks for it.
    #[serde(default)]
    scope: Option<String>,
    /// For which service the token shall be, if the server asks for it.
    #[serde(default)]
    audience: Option<String>,
    /// How the client's id and secret are sent: `basic` (what the standard asks for) or in the
    /// `body`.
    #[serde(default)]
    client_auth: ClientAuth,
}

/// How the client's id and secret are sent.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientAuth {
    /// As HTTP Basic authentication.
    #[default]
    Basic,
    /// As fields of the form.
    Body,
}

/// What a request carries to prove who sends it.
pub(crate) struct Credential {
    name: HeaderName,
    value: HeaderValue,
    /// The OAuth 2 token, to drop it if it is refused.
    token: Option<Arc<str>>,
}

impl Credential {
    /// The request with the credential.
    pub(crate) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        request.header(&self.name, &self.value)
    }

    fn new(name: HeaderName, text: &str, token: Option<Arc<str>>) -> Result<Self, Fault> {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| Fault::misconfigured("auth_invalid", "the credential holds characters that no header can"))?;
        value.set_sensitive(true);
        Ok(Self { name, value, token })
    }
}

impl Auth {
    /// Whether requests carry a credential.
    pub(crate) fn is_some(&self) -> bool {
        !matches!(self, Auth::None)
    }

    /// Whether the credential is in a header that clients do not know as secret, so that a
    /// redirect to another host would carry it there.
    pub(crate) fn is_own_header(&self) -> bool {
        matches!(self, Auth::Header(_))
    }

    /// What a request carries.
    pub(crate) async fn credential(&self, client: &Client, tokens: &Tokens) -> Result<Option<Credential>, Fault> {
        Ok(Some(match self {
            Auth::None => return Ok(None),
            Auth::Basic(Basic { user, password }) => {
                Credential::new(AUTHORIZATION, &basic(&format!("{user}:{password}")), None)?
            }
            Auth::Bearer(Bearer { token }) => Credential::new(AUTHORIZATION, &format!("Bearer {token}"), None)?,
            Auth::Header(KeyHeader { name, value }) => {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| Fault::misconfigured("auth_invalid", format!("`{name}` is not a header's name")))?;
                Credential::new(name, value, None)?
            }
            Auth::Oauth2(oauth2) => {
                let token = tokens.get(client, oauth2).await?;
                Credential::new(AUTHORIZATION, &format!("Bearer {token}"), Some(token))?
            }
        }))
    }

    /// Forgets a token that was refused; whether a new one may be tried.
    pub(crate) async fn renew(&self, tokens: &Tokens, refused: &Credential) -> bool {
        let (Auth::Oauth2(oauth2), Some(token)) = (self, &refused.token) else { return false };
        tokens.forget(oauth2, token).await;
        true
    }
}

fn basic(pair: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(pair))
}

/// The longest answer of a token server.
const LONGEST_ANSWER: Size = Size(64 << 10);
/// How long a token server may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a token counts if its server does not say.
const USUAL_LIFE: Duration = Duration::from_secs(300);
/// A token is renewed this long before it ends, or after nine tenths of a short life.
const MARGIN: Duration = Duration::from_secs(60);
/// Token servers and clients that are remembered.
const REMEMBERED: usize = 256;

/// OAuth 2 tokens, each fetched once for all who wait for it.
#[derive(Default)]
pub(crate) struct Tokens {
    slots: Mutex<HashMap<OAuth2, Arc<Slot>>>,
}

/// One token; whoever holds the lock fetches it.
type Slot = tokio::sync::Mutex<Option<Fetched>>;

struct Fetched {
    at: Instant,
    result: Result<Token, Fault>,
}

#[derive(Clone)]
struct Token {
    text: Arc<str>,
    until: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: Option<u64>,
}

impl Tokens {
    async fn get(&self, client: &Client, oauth2: &OAuth2) -> Result<Arc<str>, Fault> {
        let asked = Instant::now();
        let slot = self.slot(oauth2);
        let mut slot = slot.lock().await;
        match &*slot {
            Some(Fetched { result: Ok(token), .. }) if Instant::now() < token.until => return Ok(token.text.clone()),
            // It failed while this run waited: asking again at once would only queue up.
            Some(Fetched { at, result: Err(fault) }) if *at >= asked => return Err(fault.clone()),
            _ => {}
        }
        let result = oauth2.fetch(client).await;
        *slot = Some(Fetched { at: Instant::now(), result: result.clone() });
        result.map(|token| token.text)
    }

    async fn forget(&self, oauth2: &OAuth2, refused: &Arc<str>) {
        let slot = self.slot(oauth2);
        let mut slot = slot.lock().await;
        let is_current = |fetched: &Fetched| fetched.result.as_ref().is_ok_and(|token| token.text == *refused);
        if slot.as_ref().is_some_and(is_current) {
            *slot = None;
        }
    }

    fn slot(&self, oauth2: &OAuth2) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(oauth2) {
            return slot.clone();
        }
        if slots.len() >= REMEMBERED {
            slots.clear();
        }
        slots.entry(oauth2.clone()).or_default().clone()
    }
}

impl OAuth2 {
    async fn fetch(&self, client: &Client) -> Result<Token, Fault> {
        let url = target::parse(&self.token_url, &Map::new())?;
        let place = target::shown(&url);
        let asked = Instant::now();
        let request = self.request(client.post(url)).timeout(PATIENCE);
        let response = request.send().await.map_err(|error| faults::unanswered(&error, &place))?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = answer::bounded(response, LONGEST_ANSWER, &place).await?;
        if !status.is_success() {
            let excerpt = String::from_utf8_lossy(&body);
            let refused = Refused { status, headers: &headers, excerpt: &excerpt, with_credential: true };
            return Err(self.refusal(refused, &place));
        }
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| {
            Fault::misconfigured("oauth2_answer", format!("{place} answered {status}, but with no access token"))
        })?;
        let life = answer.expires_in.map_or(USUAL_LIFE, Duration::from_secs);
        let until = asked + life.saturating_sub(MARGIN).max(life * 9 / 10).min(life);
        Ok(Token { text: answer.access_token.into(), until })
    }

    /// A token server says 400 where others say 401 (RFC 6749, section 5.2): both mean that this
    /// client, or what it asks for, is not accepted.
    fn refusal(&self, refused: Refused<'_>, place: &str) -> Fault {
        let fault = refused.fault(place);
        match refused.status.as_u16() {
            400 | 401 | 403 => Fault::unauthorized("oauth2_refused", fault.message),
            _ => fault,
        }
    }

    fn request(&self, request: RequestBuilder) -> RequestBuilder {
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(self.scope.as_deref().map(|scope| ("scope", scope)));
        form.extend(self.audience.as_deref().map(|audience| ("audience", audience)));
        match self.client_auth {
            ClientAuth::Basic => {
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(&self.client_id), encoded(&self.client_secret));
                request.header(AUTHORIZATION, basic(&pair)).form(&form)
            }
            ClientAuth::Body => {
                form.extend([("client_id", self.client_id.as_str()), ("client_secret", self.client_secret.as_str())]);
                request.form(&form)
            }
        }
    }
}
