//! After a panic: what the registry says is bound, and what is.

use std::collections::BTreeSet;

use super::Supervisor;
use crate::{
    instance::InstanceId,
    proto::message::Code,
    relay::registry::{Binding, Change},
};

impl Supervisor {
    /// Makes the registry and the sockets agree again: what was begun is undone, what is served for nobody ends, and an instance of
    /// which a part is not served goes as a whole, of which its client is told. It declares it anew.
    pub(super) fn reconcile(&mut self) {
        for instance in self.registry.unfinished() {
            self.apply(Change::Undone { instance });
        }
        let held: Vec<(InstanceId, BTreeSet<Binding>)> = (self.registry.instances())
            .map(|(id, _, services)| {
                let bindings = services.iter().map(|service| Binding::new(id, service));
                (id.clone(), bindings.collect())
            })
            .collect();
        let is_held =
            |binding: &Binding| held.iter().any(|(_, bindings)| bindings.contains(binding));
        let strays = self.services.keys().filter(|binding| !is_held(binding));
        for binding in strays.cloned().collect::<Vec<_>>() {
            self.unbind(&binding);
        }
        for (instance, bindings) in held {
            if !bindings.iter().all(|it| self.services.contains_key(it)) {
                self.give_up(instance);
            }
        }
    }

    fn give_up(&mut self, instance: InstanceId) {
        let revision = self.registry.revision(&instance);
        let owner = self.registry.owner(&instance);
        self.fail(instance.clone());
        if let (Some(owner), Some(revision)) = (owner, revision) {
            let text = "the relay failed";
            self.tell_unbound(&owner, instance, revision, Code::Internal, text);
        }
    }
}
