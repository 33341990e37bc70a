//! A mail server that does what a test wants of it: refuse, demand a password, encrypt.

use std::{io, net::IpAddr};

use mailin::{
    Action, AuthMechanism, Handler, Response, Session, SessionBuilder,
    response::{INVALID_CREDENTIALS, OK},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{Notes, Server};

/// How the server behaves, and what it received.
#[derive(Clone, Default)]
pub struct Post {
    /// What it says instead of a greeting.
    pub instead: Option<&'static str>,
    /// The status that it gives recipients.
    pub recipients: Option<u16>,
    /// The status that it gives mails.
    pub mails: Option<u16>,
    /// The password that it demands.
    pub password: Option<&'static str>,
    /// With what it encrypts when asked to.
    pub starttls: Option<TlsAcceptor>,
    /// With what it encrypts from the beginning.
    pub tls: Option<TlsAcceptor>,
    /// The mails.
    pub received: Notes<Letter>,
    /// The connections.
    pub connections: Notes<()>,
}

/// A mail that came.
#[derive(Clone, Default, Debug)]
pub struct Letter {
    pub from: String,
    pub to: Vec<String>,
    pub content: Vec<u8>,
}

impl Post {
    pub async fn start(&self) -> Server {
        let post = self.clone();
        Server::raw(move |stream| {
            let post = post.clone();
            async move {
                post.connections.add(());
                let _ended = post.talk(stream).await;
            }
        })
        .await
    }

    async fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        if let Some(words) = self.instead {
            return stream.write_all(words.as_bytes()).await;
        }
        let mut session = self.session(stream.peer_addr()?.ip());
        if let Some(tls) = &self.tls {
            let mut stream = tls.accept(stream).await?;
            greet(&mut stream, &session).await?;
            session.tls_active();
            return converse(stream, &mut session).await.map(drop);
        }
        greet(&mut stream, &session).await?;
        if let (Some(stream), Some(tls)) = (converse(stream, &mut session).await?, &self.starttls) {
            let stream = tls.accept(stream).await?;
            session.tls_active();
            converse(stream, &mut session).await?;
        }
        Ok(())
    }

    fn session(&self, remote: IpAddr) -> Session<Clerk> {
        let mut builder = SessionBuilder::new("post.test");
        if self.starttls.is_some() {
            builder.enable_start_tls();
        }
        if self.password.is_some() {
            builder.enable_auth(AuthMechanism::Plain).insecure_enable_plaintext_auth();
        }
        builder.build(remote, Clerk { post: self.clone(), letter: Letter::default() })
    }
}

async fn greet(stream: &mut (impl AsyncWrite + Unpin), session: &Session<Clerk>) -> io::Result<()> {
    let mut words = Vec::new();
    session.greeting().write_to(&mut words)?;
    stream.write_all(&words).await
}

/// Converses until the end, or until the client wants to encrypt: then the stream comes back.
async fn converse<S: AsyncRead + AsyncWrite + Unpin>(stream: S, session: &mut Session<Clerk>) -> io::Result<Option<S>> {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(None);
        }
        let response = session.process(&line);
        let mut words = Vec::new();
        response.write_to(&mut words)?;
        stream.write_all(&words).await?;
        stream.flush().await?;
        match response.action {
            Action::Close => return Ok(None),
            Action::UpgradeTls => return Ok(Some(stream.into_inner())),
            Action::NoReply | Action::Reply => {}
        }
    }
}

struct Clerk {
    post: Post,
    letter: Letter,
}

fn status(code: Option<u16>) -> Response {
    code.map_or(OK, |code| Response::custom(code, "as the test wants".to_owned()))
}

impl Handler for Clerk {
    fn rcpt(&mut self, _: &str) -> Response {
        status(self.post.recipients)
    }

    fn data_start(&mut self, _: &str, from: &str, _: bool, to: &[String]) -> Response {
        self.letter = Letter { from: from.to_owned(), to: to.to_vec(), content: Vec::new() };
        status(self.post.mails)
    }

    fn data(&mut self, part: &[u8]) -> io::Result<()> {
        self.letter.content.extend_from_slice(part);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.post.received.add(std::mem::take(&mut self.letter));
        OK
    }

    fn auth_plain(&mut self, _: &str, _: &str, password: &str) -> Response {
        if self.post.password == Some(password) { mailin::response::AUTH_OK } else { INVALID_CREDENTIALS }
    }
}
