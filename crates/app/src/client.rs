//! The client of the API: how commands ask a server that runs.

use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode, redirect};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{
    api::About,
    cli::Token,
    failure::{Failure, Outcome},
    problem_details::ProblemDetails,
};

/// How long a server may take to take a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long it may take to answer; replaying very many dead letters takes its time.
const ANSWER: Duration = Duration::from_secs(600);

/// Asks one server.
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
    token: Option<Token>,
}

impl Client {
    /// A client of the server at this address.
    pub(crate) fn new(url: &str, token: Option<Token>) -> Outcome<Self> {
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let wrong = || {
            Failure::usage(format!("`{url}` is not the address of a server"))
                .hint("write for example `http://127.0.0.1:7700`")
        };
        let parsed = reqwest::Url::parse(&url).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(wrong());
        }
        // Two installations of the same provider are harmless.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .timeout(ANSWER)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|error| Failure::new(format!("no HTTP client can be made: {error}")))?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Whether the server there is the process with this number.
    pub(crate) async fn is_process(&self, process: u32) -> bool {
        let request = self.request(Method::GET, "server").timeout(CONNECT);
        match request.send().await {
            // A server that wants a token says so when it is asked for something.
            Ok(response) if response.status() == StatusCode::UNAUTHORIZED => true,
            Ok(response) => response.json::<About>().await.is_ok_and(|about| about.process == process),
            Err(_) => false,
        }
    }

    /// Something from the API.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        self.answer(self.request(Method::GET, path)).await
    }

    /// The entries of a list.
    pub(crate) async fn list<T: DeserializeOwned>(&self, path: &str, query: &[(String, String)]) -> Outcome<Vec<T>> {
        let page: Value = self.answer(self.request(Method::GET, path).query(query)).await?;
        let entries = page.get(path.replace('-', "_")).cloned().unwrap_or_default();
        serde_json::from_value(entries).map_err(|error| self.other_version(&error.to_string()))
    }

    /// Asks for something to be done.
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: Option<&impl Serialize>) -> Outcome<T> {
        let request = self.request(Method::POST, path);
        self.answer(match body {
            Some(body) => request.json(body),
            None => request,
        })
        .await
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}/api/v1/{path}", self.url));
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    async fn answer<T: DeserializeOwned>(&self, request: RequestBuilder) -> Outcome<T> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return response.json().await.map_err(|error| self.other_version(&error.to_string()));
        }
        Err(self.refused(response).await)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let why = if error.is_timeout() { "it takes too long to answer" } else { "nothing answers there" };
        Failure::new(format!("the server at {} cannot be reached: {why}", self.url))
            .hint("start it with `flowline up`, or name another with `--server URL`")
    }

    fn other_version(&self, error: &str) -> Failure {
        Failure::new(format!("the answer of {} cannot be read: {error}", self.url))
            .hint("use the version of `flowline` that the server has")
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        match response.json::<ProblemDetails>().await {
            Ok(_) if status == StatusCode::UNAUTHORIZED => {
                Failure::new(format!("the server at {} wants another token", self.url))
                    .hint("set FLOWLINE_TOKEN to the token that the server has")
            }
            Ok(problem) => Failure::new(problem.detail),
            Err(_) => self.other_version(&format!("it answered {status}")),
        }
    }
}
