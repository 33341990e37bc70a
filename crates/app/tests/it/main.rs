//! Tests of the program as its users meet it: the real binary, its output and its answers.

mod cli;
mod dead_letters;
mod harness;
mod limits;
mod reference;
mod run;
mod server;
mod watch;
