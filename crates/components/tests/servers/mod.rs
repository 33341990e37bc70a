//! Real servers for the tests, on loopback; each ends with its test.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part")]

pub mod post;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::Router;
use flowline_components::catalog;
use flowline_sdk::Operation;
use rcgen::generate_simple_self_signed;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, rustls};

/// An operation of the catalog.
pub fn operation(name: &str) -> Operation {
    catalog().get(name).expect("an operation of the catalog").clone()
}

/// A server that ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A web server.
    pub async fn web(app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, task }
    }

    /// A server that hands each connection to `serve`.
    pub async fn raw<F, T>(serve: F) -> Self
    where
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { address, task }
    }

    /// A server that reads a request, says these bytes and hangs up.
    pub async fn saying(answer: &'static [u8]) -> Self {
        Self::raw(move |mut stream| async move {
            let mut buffer = [0; 4096];
            let _read = stream.read(&mut buffer).await;
            let _written = stream.write_all(answer).await;
        })
        .await
    }
}

/// TLS with a certificate that nobody vouches for.
pub fn self_signed() -> TlsAcceptor {
    signed().0
}

/// TLS with a certificate of its own, and that certificate as PEM.
pub fn signed() -> (TlsAcceptor, String) {
    let made = generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), made.cert.pem())
}

/// What several hands write down.
pub struct Notes<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Notes<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Notes<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone> Notes<T> {
    pub fn add(&self, note: T) -> usize {
        let mut notes = self.0.lock().unwrap();
        notes.push(note);
        notes.len()
    }

    pub fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}
