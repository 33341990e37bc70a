//! Receives mail over SMTP and gives it to a mailbox. For machines' own use: no encryption.

use std::io;

use mailin::{Action, Handler, Response, Session, SessionBuilder, response};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::mailbox::Mailbox;

/// The longest mail and the longest line, in bytes.
const LONGEST_MAIL: usize = 32 << 20;
const LONGEST_LINE: u64 = 64 << 10;

/// Receives mail until it is dropped.
pub async fn serve(listener: TcpListener, mailbox: Mailbox) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let mailbox = mailbox.clone();
        tokio::spawn(async move { converse(stream, mailbox).await });
    }
}

async fn converse(stream: TcpStream, mailbox: Mailbox) -> io::Result<()> {
    let remote = stream.peer_addr()?.ip();
    let catcher = Catcher { mailbox, to: Vec::new(), content: Vec::new() };
    let mut session: Session<Catcher> = SessionBuilder::new("story-mailbox").build(remote, catcher);
    let mut stream = BufReader::new(stream);
    say(&mut stream, &session.greeting()).await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut stream).take(LONGEST_LINE).read_until(b'\n', &mut line).await?;
        if read == 0 {
            return Ok(());
        }
        let answer = session.process(&line);
        say(&mut stream, &answer).await?;
        if answer.action == Action::Close {
            return Ok(());
        }
    }
}

async fn say(stream: &mut BufReader<TcpStream>, answer: &Response) -> io::Result<()> {
    let mut words = Vec::new();
    answer.write_to(&mut words)?;
    stream.write_all(&words).await
}

struct Catcher {
    mailbox: Mailbox,
    to: Vec<String>,
    content: Vec<u8>,
}

impl Handler for Catcher {
    fn data_start(&mut self, _: &str, _: &str, _: bool, to: &[String]) -> Response {
        self.to = to.to_vec();
        self.content.clear();
        response::OK
    }

    fn data(&mut self, part: &[u8]) -> io::Result<()> {
        if self.content.len() + part.len() > LONGEST_MAIL {
            return Err(io::Error::other("the mail is too long"));
        }
        self.content.extend_from_slice(part);
        Ok(())
    }

    fn data_end(&mut self) -> Response {
        self.mailbox.take(std::mem::take(&mut self.to), &std::mem::take(&mut self.content));
        response::OK
    }
}
