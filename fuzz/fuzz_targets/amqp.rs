//! Says arbitrary bytes to the gateway's AMQP connection: from the start, or once hands are shaken.
#![no_main]

#[path = "../../crates/gateway/tests/peer/mod.rs"]
mod peer;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let mut peer = peer::Peer::default();
    if first & 1 == 1 {
        peer.receive(&peer::handshake());
        assert!(peer.connection.is_running());
    }
    // Pieces as a network may cut them.
    for piece in rest.chunks(usize::from(first >> 1).max(1)) {
        peer.receive(piece);
    }
    peer.end();
});
