//! The components built into Flowline: one file each and one visible list.
//!
//! A new operation is one file, one `mod` line and one line in [`catalog`]; its form, reference
//! page, checks, metrics and retries derive from its spec.
#![warn(missing_docs)]

mod email_send;
mod evaluated;
mod http;
mod http_poll;
mod http_request;
mod log_write;
mod process_run;
mod router_switch;
mod timer_tick;
mod transform_aggregate;
mod transform_filter;
mod transform_map;
mod transform_split;
mod webhook_receive;
mod webhook_reply;

use flowline_sdk::{Catalog, ComponentInfo, Emit, Message, Operation};

/// Every component, in the order in which lists show them.
pub const COMPONENTS: &[ComponentInfo] = &[
    ComponentInfo { name: "webhook", summary: "Receives requests over HTTP and answers them." },
    ComponentInfo { name: "timer", summary: "Begins an execution at intervals or at times of the clock." },
    ComponentInfo { name: "http", summary: "Calls web services and asks them for what is new." },
    ComponentInfo { name: "transform", summary: "Reshapes, filters, splits and gathers messages." },
    ComponentInfo { name: "router", summary: "Sends messages along different ways." },
    ComponentInfo { name: "email", summary: "Sends mail." },
    ComponentInfo { name: "log", summary: "Writes into the step's log." },
    ComponentInfo { name: "process", summary: "Runs programs of your own, in any language." },
];

/// Every operation there is.
pub fn catalog() -> Catalog {
    Catalog::new([
        Operation::webhook(webhook_receive::Receive),
        Operation::action(webhook_reply::ReplyToCaller),
        Operation::polling(timer_tick::Tick),
        Operation::action(http_request::HttpRequest::default()),
        Operation::polling(http_poll::HttpPoll::default()),
        Operation::action(email_send::EmailSend::default()),
        Operation::action(transform_map::Map),
        Operation::action(transform_filter::Filter),
        Operation::action(transform_split::Split),
        Operation::action(transform_aggregate::Aggregate),
        Operation::action(router_switch::Switch),
        Operation::action(log_write::Write),
        process_run::run(),
        process_run::poll(),
    ])
}

/// The input as an emit, for operations that let it through.
fn pass_on(input: Message) -> Emit {
    Emit::new(input.body).attachments(input.attachments)
}

#[cfg(test)]
mod tests {
    use flowline_sdk::testing::conformance;

    use super::*;

    #[tokio::test]
    async fn every_operation_keeps_to_what_operations_keep_to() {
        let complaints = conformance(&catalog()).await;
        assert!(complaints.is_empty(), "{complaints:#?}");
    }

    #[test]
    fn every_component_is_described() {
        let catalog = catalog();
        for spec in catalog.specs() {
            assert!(COMPONENTS.iter().any(|component| component.name == spec.component()), "{}", spec.name);
        }
        for component in COMPONENTS {
            assert!(catalog.specs().any(|spec| spec.component() == component.name), "{}", component.name);
        }
    }
}
