//! The story's mailbox: `story-mailbox --listen 127.0.0.1:8802 --smtp 127.0.0.1:2525`.

use std::net::SocketAddr;

use clap::Parser;
use flowline_story::{mailbox::Mailbox, smtp};
use tokio::net::TcpListener;

/// A mailbox that catches every mail and delivers none; keeps them in memory.
#[derive(Parser)]
struct Options {
    /// Where its page is; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8802")]
    listen: SocketAddr,
    /// Where it takes mail; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:2525")]
    smtp: SocketAddr,
    /// How many mails are kept, the latest.
    #[arg(long, default_value = "500")]
    keep: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let (page, mail) = (TcpListener::bind(options.listen).await?, TcpListener::bind(options.smtp).await?);
    println!("story-mailbox: http://{} smtp://{}", page.local_addr()?, mail.local_addr()?);
    let mailbox = Mailbox::new(options.keep);
    let pages = mailbox.clone().routes();
    tokio::select! {
        ended = axum::serve(page, pages).into_future() => ended?,
        ended = smtp::serve(mail, mailbox) => ended?,
    }
    Ok(())
}
