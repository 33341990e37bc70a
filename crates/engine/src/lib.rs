//! What runs flows: workers, scheduler, reconciler, recorder
