//! Who may come in: workers by name, each with secrets of its own for one step.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use flowline_sdk::RemoteStep;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::{environment::Secrets, step::Step};

/// One worker that was let in.
pub(crate) struct Guest {
    pub(crate) name: String,
    pub(crate) step: Arc<Step>,
    pub(crate) secrets: Secrets,
    /// Ends its connections.
    pub(crate) leave: CancellationToken,
}

impl Guest {
    pub(crate) fn spec(&self) -> &RemoteStep {
        &self.step.spec
    }
}

/// All workers that were let in.
#[derive(Default)]
pub(crate) struct Guests {
    by_name: RwLock<HashMap<String, Arc<Guest>>>,
}

impl Guests {
    /// Lets one in; gives the one of the same name that was there.
    pub(crate) fn insert(&self, guest: Arc<Guest>) -> Option<Arc<Guest>> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).insert(guest.name.clone(), guest)
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Arc<Guest>> {
        self.by_name.write().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    /// All of a step's.
    pub(crate) fn of(&self, step: &Arc<Step>) -> Vec<Arc<Guest>> {
        let guests = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        guests.values().filter(|guest| Arc::ptr_eq(&guest.step, step)).cloned().collect()
    }

    /// The worker with this name and secret. It takes the same time however wrong the secret is.
    pub(crate) fn enter(&self, name: &str, secret: &str, door: impl Fn(&Secrets) -> &str) -> Option<Arc<Guest>> {
        let guest = self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()?;
        let expected = door(&guest.secrets);
        bool::from(expected.as_bytes().ct_eq(secret.as_bytes())).then_some(guest)
    }
}
