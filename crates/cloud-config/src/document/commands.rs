//! Commands that a cloud-config runs.

use crate::node::Node;
use serde_json::Value;

/// One entry of `runcmd` or `bootcmd`: a line for the shell, or a program with its arguments.
#[derive(Clone, Debug, PartialEq)]
pub enum ShellCommand {
    Line(String),
    Arguments(Vec<String>),
}

pub(super) fn commands(node: &Node) -> Vec<ShellCommand> {
    let command = |node: &Node| match node.value {
        Value::String(_) => node.text().map(ShellCommand::Line),
        Value::Array(items) => {
            let arguments: Vec<String> = node.items().iter().filter_map(Node::text).collect();
            if items.iter().any(Value::is_null) {
                node.refuse("an argument must be text");
            }
            Some(arguments).filter(|arguments| arguments.len() == items.len()).map(ShellCommand::Arguments)
        }
        _ => {
            node.refuse("a command is text or a list of texts");
            None
        }
    };
    node.items().iter().filter_map(command).collect()
}
