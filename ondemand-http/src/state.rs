//! What handlers can reach: a part for each concern, which a handler asks for by its type.

use std::sync::Arc;

use axum::extract::FromRef;
use ondemand_core::{Config, Databases, Datasets, Environments, Error, Janitor, Ondemand, SnapshotStore};

use crate::auth::Access;
use crate::life::Life;
use crate::openapi::Description;
use crate::routes::Routing;

/// What the handlers of a whole server can reach. Clones share it.
#[derive(Debug, Clone)]
pub struct AppState(Arc<Whole>);

#[derive(Debug)]
struct Whole {
    ondemand: Ondemand,
    front: Front,
}

/// What keeps the data of a server, and what looks after it; a proxy that stands alone has neither.
#[derive(Debug, Clone)]
pub(crate) struct Kept(pub(crate) Option<(Arc<dyn SnapshotStore>, Janitor)>);

/// What the handlers of a stand-alone proxy can reach. Clones share it.
#[derive(Debug, Clone)]
pub struct ProxyState(Arc<Front>);

/// What every server has.
#[derive(Debug)]
struct Front {
    access: Access,
    limits: Limits,
    life: Life,
    routing: Routing,
}

/// How much clients may send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// The largest body that is not an upload.
    pub(crate) body: u64,
    /// The largest upload.
    pub(crate) upload: Option<u64>,
}

impl Front {
    fn new(routing: Routing, config: &Config) -> Self {
        let http = &config.http;
        Self {
            access: Access::new(config),
            limits: Limits { body: http.max_body.0, upload: http.max_upload.map(|size| size.0) },
            life: Life::default(),
            routing,
        }
    }
}

impl AppState {
    /// Makes the state of a server that is not ready yet.
    pub fn new(ondemand: Ondemand, routing: Routing, config: &Config) -> Self {
        Self(Arc::new(Whole { ondemand, front: Front::new(routing, config) }))
    }

    /// Says that the first round of the janitor is done, so that what runs is known.
    pub fn set_ready(&self) {
        self.0.front.life.set_ready();
    }

    /// Says what keeps the first round from being done, for those who ask meanwhile.
    pub(crate) fn set_trouble(&self, error: &Error) {
        self.0.front.life.set_trouble(error);
    }

    /// Ends the answers that would never end by themselves, such as logs that are followed.
    pub fn shut_down(&self) {
        self.0.front.life.shut_down();
    }

    pub(crate) fn close(&self) {
        self.0.ondemand.close();
    }

    pub(crate) fn environments(&self) -> Option<&Environments> {
        self.0.ondemand.environments.as_ref()
    }

    pub(crate) fn janitor(&self) -> &Janitor {
        &self.0.ondemand.janitor
    }
}

impl ProxyState {
    /// Makes the state of a stand-alone proxy, which is ready at once.
    pub fn new(routing: Routing, config: &Config) -> Self {
        let front = Front::new(routing, config);
        front.life.set_ready();
        Self(Arc::new(front))
    }
}

/// Lets handlers ask for these parts of a state.
macro_rules! parts {
    ($state:ident: $($part:ty = $this:ident => $value:expr;)*) => {
        $(impl FromRef<$state> for $part {
            fn from_ref($state($this): &$state) -> Self {
                $value
            }
        })*
    };
}

parts! { AppState:
    Access = this => this.front.access.clone();
    Limits = this => this.front.limits;
    Life = this => this.front.life.clone();
    Routing = this => this.front.routing.clone();
    Option<Environments> = this => this.ondemand.environments.clone();
    Databases = this => this.ondemand.databases.clone();
    Datasets = this => this.ondemand.datasets.clone();
    Janitor = this => this.ondemand.janitor.clone();
    Arc<dyn SnapshotStore> = this => Arc::clone(&this.ondemand.store);
    Kept = this => Kept(Some((Arc::clone(&this.ondemand.store), this.ondemand.janitor.clone())));
    Description = _this => Description::of_the_whole();
}

parts! { ProxyState:
    Access = this => this.access.clone();
    Limits = this => this.limits;
    Life = this => this.life.clone();
    Routing = this => this.routing.clone();
    Kept = _this => Kept(None);
    Description = _this => Description::of_the_proxy();
}
