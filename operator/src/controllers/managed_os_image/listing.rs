//! The Nodes of this cluster, read at most once in a reconciliation: a large cluster's are megabytes.

use super::{Context, ReconcileError};
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::collections::BTreeSet;
use tokio::sync::OnceCell;

#[derive(Default)]
pub(super) struct NodeListing {
    nodes: OnceCell<Vec<Node>>,
    names: OnceCell<BTreeSet<String>>,
}

impl NodeListing {
    pub(super) async fn nodes(&self, context: &Context) -> Result<&[Node], ReconcileError> {
        let nodes = self.nodes.get_or_try_init(|| async {
            let nodes = Api::<Node>::all(context.client.clone()).list(&ListParams::default()).await;
            nodes.map(|nodes| nodes.items).map_err(unread)
        });
        Ok(nodes.await?)
    }

    /// Their names. If nothing else of them was read, nothing else is read for it.
    pub(super) async fn names(&self, context: &Context) -> Result<&BTreeSet<String>, ReconcileError> {
        let names = self.names.get_or_try_init(|| async {
            if let Some(nodes) = self.nodes.get() {
                return Ok(nodes.iter().map(ResourceExt::name_any).collect());
            }
            let nodes = Api::<Node>::all(context.client.clone()).list_metadata(&ListParams::default()).await;
            nodes.map(|nodes| nodes.iter().map(ResourceExt::name_any).collect()).map_err(unread)
        });
        names.await
    }
}

fn unread(source: kube::Error) -> ReconcileError {
    ReconcileError::Reading { what: "Nodes".to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::{FakeApi, context};
    use serde_json::json;

    #[tokio::test]
    async fn the_nodes_are_read_once_for_all_who_ask() {
        let api = FakeApi::default();
        let items = json!([{"metadata": {"name": "a"}}]);
        api.put("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "NodeList", "metadata": {}, "items": items}));
        let context = context(&api);
        let listing = NodeListing::default();
        for _ in 0..2 {
            assert_eq!(listing.nodes(&context).await.unwrap().len(), 1);
        }
        assert!(listing.names(&context).await.unwrap().contains("a"));
        assert_eq!(api.take_requests().len(), 1);
    }
}
