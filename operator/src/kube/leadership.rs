//! Leader election: the replica that holds a Lease runs the controllers. All replicas serve machines.
//!
//! The rules are client-go's: a Lease has expired if it has not changed for its duration, measured with this replica's
//! monotonic clock. The times in the Lease are ignored, so clocks need not agree, and a clock that jumps changes
//! nothing.
//!
//! Why this is not a library: kube-lease-manager 0.13 works with kube 5, but compares the Lease's renew time with the
//! time of day, so two replicas whose clocks differ could lead at the same time. kubert and kube-leader-election need
//! other versions of kube.

mod election;
mod lease;

pub use election::Election;
pub use lease::NAME;

use futures::{Stream, stream};
use tokio::sync::watch;

/// Whether this replica leads.
#[derive(Clone)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// The first value follows what is sent to the second.
    pub fn new() -> (Self, watch::Sender<bool>) {
        let (sender, receiver) = watch::channel(false);
        (Self(receiver), sender)
    }

    pub fn is_held(&self) -> bool {
        *self.0.borrow()
    }

    /// Runs an action while this replica leads. `None`: this replica does not lead, or it stopped leading before the
    /// action finished. The action is then dropped.
    pub async fn act<T>(&self, action: impl Future<Output = T>) -> Option<T> {
        let mut held = self.0.clone();
        if !*held.borrow_and_update() {
            return None;
        }
        tokio::select! {
            biased;
            () = turned(&mut held, false) => None,
            value = action => Some(value),
        }
    }

    /// One item each time this replica begins to lead. It then reconciles what another leader did before.
    pub fn begins(&self) -> impl Stream<Item = ()> + Send + use<> {
        stream::unfold((self.0.clone(), false), |(mut held, mut before)| async move {
            loop {
                turned(&mut held, !before).await;
                before = !before;
                if before {
                    return Some(((), (held, before)));
                }
            }
        })
    }

    /// Starts `work` each time this replica begins to lead and drops it when this replica stops leading, until `stop`.
    /// For controllers whose watches only the leader needs.
    pub async fn whenever_held<W: Future<Output = ()>>(&self, stop: impl Future<Output = ()>, work: impl Fn() -> W) {
        let leading = async {
            let mut held = self.0.clone();
            loop {
                turned(&mut held, true).await;
                self.act(work()).await;
                turned(&mut held, false).await;
            }
        };
        tokio::select! {
            () = leading => {}
            () = stop => {}
        }
    }

    /// For a single replica, which always leads.
    #[cfg(test)]
    pub fn always() -> Self {
        Self(watch::channel(true).1)
    }
}

/// Waits for a value. Never returns if the election has ended with the other value.
async fn turned(held: &mut watch::Receiver<bool>, value: bool) {
    if held.wait_for(|held| *held == value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{FutureExt, StreamExt, future};
    use std::cell::Cell;

    #[tokio::test]
    async fn a_replica_that_does_not_lead_does_not_act() {
        let (leadership, lead) = Leadership::new();
        assert_eq!(leadership.act(future::ready(1)).await, None);
        lead.send_replace(true);
        assert_eq!(leadership.act(future::ready(1)).await, Some(1));
        assert_eq!(Leadership::always().act(future::ready(1)).await, Some(1));
    }

    #[tokio::test]
    async fn an_action_ends_with_the_leadership() {
        let (leadership, lead) = Leadership::new();
        lead.send_replace(true);
        let action = leadership.act(future::pending::<()>());
        tokio::pin!(action);
        assert!(action.as_mut().now_or_never().is_none());
        lead.send_replace(false);
        assert_eq!(action.await, None);
    }

    #[tokio::test]
    async fn each_beginning_of_leadership_is_reported_once() {
        let (leadership, lead) = Leadership::new();
        let begins = leadership.begins();
        tokio::pin!(begins);
        assert!(begins.next().now_or_never().is_none());
        for _ in 0..2 {
            lead.send_replace(true);
            assert_eq!(begins.next().await, Some(()));
            assert!(begins.next().now_or_never().is_none());
            lead.send_replace(false);
            assert!(begins.next().now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn work_starts_again_with_each_leadership() {
        let (leadership, lead) = Leadership::new();
        let begun = Cell::new(0);
        let working = leadership.whenever_held(future::pending(), || {
            begun.set(begun.get() + 1);
            future::pending()
        });
        tokio::pin!(working);
        for round in 1..3 {
            assert!(working.as_mut().now_or_never().is_none());
            lead.send_replace(true);
            assert!(working.as_mut().now_or_never().is_none());
            assert_eq!(begun.get(), round);
            lead.send_replace(false);
        }
    }
}
