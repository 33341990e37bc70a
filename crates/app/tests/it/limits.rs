//! Clients that hold on to what they are given: they are cut off, and nobody else notices.

use std::{
    io::{Read, Write},
    time::{Duration, Instant},
};

use crate::harness::{Answer, Folder, NUMBERS, Server};

fn impatient(folder: &Folder) -> Server {
    folder.write("flows/numbers.yaml", NUMBERS);
    Server::start(
        folder,
        &["--head-timeout", "1s", "--idle-timeout", "1s", "--body-timeout", "2s", "--connections", "8"],
    )
}

fn assert_alive(server: &Server) {
    assert_eq!(server.post_json("/hook/numbers", "{\"x\": \"1\"}").status, 202);
}

#[test]
fn a_head_that_never_ends_is_cut_off() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let mut slow: Vec<_> = (0..6).map(|_| server.connect()).collect();
    let begun = Instant::now();
    for stream in &mut slow {
        stream.write_all(b"POST /hook/numbers HTTP/1.1\r\nhost: x\r\nx-slow: ").unwrap();
    }
    assert_alive(&server);
    for stream in &mut slow {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_alive(&server);
}

#[test]
fn more_connections_than_allowed_wait_their_turn() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let idle: Vec<_> = (0..20).map(|_| server.connect()).collect();
    assert_alive(&server);
    drop(idle);
}

#[test]
fn a_body_that_stops_coming_is_cut_off() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let mut slow = server.connect();
    slow.write_all(
        b"POST /hook/numbers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
    )
    .unwrap();
    assert_alive(&server);
    let answer = Answer::read(&mut slow);
    assert_eq!(answer.status, 400, "{answer:?}");
    assert!(answer.body.contains("too slowly"), "{answer:?}");
}

#[test]
fn a_body_that_trickles_without_end_is_cut_off() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let mut slow = server.connect();
    slow.write_all(b"POST /hook/numbers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(20) && slow.write_all(b"1\r\n \r\n").is_ok() {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_alive(&server);
}

#[test]
fn an_endless_body_is_refused_while_it_comes() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let mut endless = server.connect();
    endless
        .write_all(b"POST /hook/numbers HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let mut sent = 0usize;
    while sent < 256 << 20 && endless.write_all(chunk.as_bytes()).is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    assert_alive(&server);
}

#[test]
fn heads_have_limits() {
    let folder = Folder::new();
    let server = impatient(&folder);
    let long = "x".repeat(200_000);
    let answer = server.request("GET", "/healthz", &[("x-long", &long)], "");
    assert!(matches!(answer.status, 0 | 400 | 431), "{answer:?}");
    let names: Vec<String> = (0..500).map(|n| format!("x-{n}")).collect();
    let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "y")).collect();
    let answer = server.request("GET", "/healthz", &many, "");
    assert!(matches!(answer.status, 0 | 400 | 431), "{answer:?}");
    assert_alive(&server);
}
