//! Who may come in: workers by name, each with secrets of its own for one step.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
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
    leave: Mutex<CancellationToken>,
}

impl Guest {
    pub(crate) fn new(name: &str, step: Arc<Step>, secrets: Secrets) -> Self {
        Self { name: name.to_owned(), step, secrets, leave: Mutex::default() }
    }

    fn leave(&self) -> MutexGuard<'_, CancellationToken> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Told when its connections of now have to end.
    pub(crate) fn leaving(&self) -> CancellationToken {
        self.leave().clone()
    }

    /// Ends its connections; new ones may come as long as it is let in.
    pub(crate) fn interrupt(&self) {
        std::mem::take(&mut *self.leave()).cancel();
    }

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

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Guest>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All of a step's.
    pub(crate) fn of(&self, step: &Arc<Step>) -> Vec<Arc<Guest>> {
        let guests = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        guests.values().filter(|guest| Arc::ptr_eq(&guest.step, step)).cloned().collect()
    }

    /// The worker with this name and secret. It takes the same time however wrong the secret is.
    pub(crate) fn enter(&self, name: &str, secret: &str, door: impl Fn(&Secrets) -> &str) -> Option<Arc<Guest>> {
        let guest = self.get(name)?;
        let expected = door(&guest.secrets);
        bool::from(expected.as_bytes().ct_eq(secret.as_bytes())).then_some(guest)
    }
}
