//! QEMU's control socket: one command per connection (QEMU Machine Protocol, docs/interop/qmp-spec).

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Sends one command and gives what it returns.
pub fn execute(socket: &Path, command: &str, arguments: Value) -> Result<Value> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).context("setting a timeout")?;
    let mut lines = BufReader::new(stream.try_clone().context("duplicating QEMU's control socket")?).lines();
    let mut answer = move || -> Result<Value> {
        loop {
            let line = lines.next().context("QEMU closed its control socket")?.context("reading QEMU's answer")?;
            let value: Value = serde_json::from_str(&line).context("parsing QEMU's answer")?;
            if value.get("event").is_none() {
                return Ok(value);
            }
        }
    };
    answer().context("waiting for QEMU's greeting")?;
    let mut ask = |name: &str, arguments: Value| -> Result<Value> {
        let request = json!({"execute": name, "arguments": arguments});
        writeln!(stream, "{request}").with_context(|| format!("sending {name} to QEMU"))?;
        let answer = answer()?;
        match answer.get("error") {
            Some(error) => bail!("QEMU refused {name}: {}", error["desc"].as_str().unwrap_or("no reason given")),
            None => Ok(answer["return"].clone()),
        }
    };
    ask("qmp_capabilities", json!({}))?;
    ask(command, arguments)
}
