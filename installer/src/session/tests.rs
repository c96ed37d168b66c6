//! Failures of operator, network and TPM in virtual time, with a scripted operator and a scripted TPM.

use super::identity::{Identity, SecretIdentity};
use super::relay::Relay;
use super::*;
use crate::settings::Secret;
use attest::{Quote, Tpm, TpmError, TpmIdentity};
use protocol::hardware::TpmInfo;
use protocol::message::{
    self, Challenge, Config, Done, FromMachine, FromOperator, InstallPhase, MachineReport, Progress, SecretChallenge,
};
use protocol::{Refusal, RefusalCode};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

struct FakeTpm;
impl Tpm for FakeTpm {
    fn endorsement_key(&mut self) -> Result<Vec<u8>, TpmError> {
        Ok(b"ek".to_vec())
    }
    fn endorsement_certificates(&mut self) -> Result<Vec<Vec<u8>>, TpmError> {
        Ok(Vec::new())
    }
    fn attestation_key(&mut self) -> Result<Vec<u8>, TpmError> {
        Ok(b"ak".to_vec())
    }
    fn activate(&mut self, credential: &[u8], _: &[u8]) -> Result<Vec<u8>, TpmError> {
        Ok(credential.iter().rev().copied().collect())
    }
    fn quote(&mut self, nonce: &[u8], _: &[u8]) -> Result<Quote, TpmError> {
        Ok(Quote { attest: nonce.to_vec(), signature: b"s".to_vec() })
    }
    fn info(&mut self) -> Result<TpmInfo, TpmError> {
        Ok(TpmInfo::default())
    }
}

fn identity() -> Identity {
    Identity::Tpm(TpmIdentity::prepare(Box::new(FakeTpm), Path::new("/nonexistent"), "test".to_owned()).unwrap())
}

/// What happens to one attempt to connect.
enum Attempt {
    Down(io::ErrorKind),
    /// The operator refuses before the websocket is open.
    Refused(Refusal),
    /// The operator sends these frames when asked for one, then closes the connection.
    Says(Vec<String>),
    /// The same, but the connection stays open.
    Stays(Vec<String>),
}

#[derive(Clone, Default)]
struct Script {
    attempts: Rc<RefCell<VecDeque<Attempt>>>,
    /// Seconds of virtual time at which each attempt was made.
    tried: Rc<RefCell<Vec<u64>>>,
    /// `type` of each frame that the machine sent.
    heard: Rc<RefCell<Vec<&'static str>>>,
}

impl Script {
    fn new(attempts: impl IntoIterator<Item = Attempt>) -> (Self, Instant) {
        (Self { attempts: Rc::new(RefCell::new(attempts.into_iter().collect())), ..Self::default() }, Instant::now())
    }
}

struct ScriptTransport(Script, Instant);
struct ScriptConnection {
    script: Script,
    frames: VecDeque<String>,
    stays: bool,
}

impl Transport for ScriptTransport {
    type Connection = ScriptConnection;
    async fn connect(&mut self) -> Result<ScriptConnection, ConnectError> {
        self.0.tried.borrow_mut().push(self.1.elapsed().as_secs());
        let next = self.0.attempts.borrow_mut().pop_front().expect("an attempt too many");
        let (frames, stays) = match next {
            Attempt::Down(kind) => {
                return Err(ConnectError::Unreachable { address: "192.0.2.1:443".into(), cause: kind.into() });
            }
            Attempt::Refused(refusal) => return Err(ConnectError::Refused(refusal)),
            Attempt::Says(frames) => (frames, false),
            Attempt::Stays(frames) => (frames, true),
        };
        Ok(ScriptConnection { script: self.0.clone(), frames: frames.into(), stays })
    }
}

impl Connection for ScriptConnection {
    async fn send(&mut self, frame: String) -> Result<(), ConnectError> {
        let message: FromMachine = message::decode(&frame).unwrap();
        self.script.heard.borrow_mut().push(message.kind());
        Ok(())
    }
    async fn receive(&mut self) -> Result<String, ConnectError> {
        match self.frames.pop_front() {
            Some(frame) => Ok(frame),
            None if self.stays => std::future::pending().await,
            None => Err(ConnectError::Lost("closed".into())),
        }
    }
}

fn challenge() -> String {
    let challenge = Challenge {
        version: 1,
        credential: vec![1, 2],
        encrypted_secret: vec![3],
        nonce: vec![0; 32],
        pcrs: vec![0],
        correlation: "c-1".into(),
    };
    message::encode(&FromOperator::Challenge(challenge)).unwrap()
}
fn config() -> String {
    let config = Config {
        inventory: "fleet-default/m-1".into(),
        cloud_config: Default::default(),
        install_seconds: 1800,
        report_seconds: 300,
    };
    message::encode(&FromOperator::Config(Box::new(config))).unwrap()
}
fn done() -> String {
    message::encode(&FromOperator::Done(Box::default())).unwrap()
}
fn refused(code: RefusalCode) -> String {
    message::encode(&FromOperator::Refused(Refusal::new(code, "because"))).unwrap()
}

/// Registers until it succeeds or fails permanently. Returns the causes of the waits as well.
async fn registered(transport: &mut ScriptTransport) -> (Result<String, ExchangeError>, Vec<String>) {
    let mut causes = Vec::new();
    let identity = identity();
    let result = with_retries(
        async || {
            let mut exchange = Exchange::open(transport, &identity).await?;
            Ok(exchange.configure(MachineReport::default()).await?.inventory)
        },
        || 0.5,
        |error, _| causes.push(error.to_string()),
    )
    .await;
    (result, causes)
}

#[tokio::test(start_paused = true)]
async fn a_machine_registers() {
    let (script, now) = Script::new([Attempt::Says(vec![challenge(), config()])]);
    let (result, causes) = registered(&mut ScriptTransport(script.clone(), now)).await;
    assert_eq!((result.unwrap().as_str(), causes.len()), ("fleet-default/m-1", 0));
    assert_eq!(*script.heard.borrow(), ["hello", "proof", "machine"]);
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_a_tpm_registers_by_its_secret() {
    let challenge = SecretChallenge { version: 1, nonce: vec![7; 32], correlation: "c-2".into() };
    let challenge = message::encode(&FromOperator::SecretChallenge(challenge)).unwrap();
    let (script, now) = Script::new([Attempt::Says(vec![challenge, config()])]);
    let identity = Identity::SharedSecret(SecretIdentity::new(Secret::new("s3cret"), "test".to_owned()));
    let mut exchange = Exchange::open(&mut ScriptTransport(script.clone(), now), &identity).await.unwrap();
    exchange.configure(MachineReport::default()).await.unwrap();
    assert_eq!(exchange.correlation(), "c-2");
    assert_eq!(*script.heard.borrow(), ["secretHello", "secretProof", "machine"]);

    // An operator that asks for a proof by TPM instead gets none.
    let (script, now) = Script::new([Attempt::Says(vec![self::challenge()])]);
    let error = Exchange::open(&mut ScriptTransport(script, now), &identity).await.map(drop).unwrap_err();
    assert_eq!(error.refusal().map(|refusal| refusal.code), Some(RefusalCode::UnexpectedMessage));
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_is_down_for_a_minute_is_waited_for() {
    let down = || Attempt::Down(io::ErrorKind::ConnectionRefused);
    let up = Attempt::Says(vec![challenge(), config()]);
    let (script, now) = Script::new([down(), down(), down(), up]);
    let (result, causes) = registered(&mut ScriptTransport(script.clone(), now)).await;
    assert!(result.is_ok());
    assert_eq!(*script.tried.borrow(), [0, 15, 45, 105]);
    assert!(causes[0].contains("no server listens there: check the port, and that the operator runs"), "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_network_without_a_route_yet_is_tried_again_at_once() {
    let no_route = || Attempt::Down(io::ErrorKind::NetworkUnreachable);
    let (script, now) = Script::new([no_route(), no_route(), Attempt::Says(vec![challenge(), config()])]);
    assert!(registered(&mut ScriptTransport(script.clone(), now)).await.0.is_ok());
    assert_eq!(*script.tried.borrow(), [0, 0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_only_a_person_can_change_ends_it_and_says_what_to_do() {
    for attempt in [
        Attempt::Refused(Refusal::new(RefusalCode::UnknownToken, "no such token")),
        Attempt::Says(vec![refused(RefusalCode::UnknownToken)]),
        Attempt::Says(vec![challenge(), refused(RefusalCode::UnknownToken)]),
    ] {
        let (script, now) = Script::new([attempt]);
        let (result, causes) = registered(&mut ScriptTransport(script, now)).await;
        let error = result.unwrap_err();
        assert!(causes.is_empty() && error.is_refusal() && error.to_string().starts_with("UnknownToken: "));
        assert!(error.to_string().contains("create a new medium"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_operators_wait_wins_and_a_closed_socket_counts_as_a_failure() {
    let pending = Refusal::new(RefusalCode::ApprovalPending, "not yet").retry_after(7);
    let (script, now) = Script::new([
        Attempt::Refused(pending),
        Attempt::Says(vec![]),
        Attempt::Says(vec![challenge()]),
        Attempt::Says(vec![challenge(), config()]),
    ]);
    let (result, causes) = registered(&mut ScriptTransport(script.clone(), now)).await;
    assert!(result.is_ok());
    assert_eq!(*script.tried.borrow(), [0, 7, 37, 97]);
    assert!(causes[0].contains("approve the MachineInventory") && causes[1].contains("closed"), "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_says_nothing_is_given_up_after_a_minute() {
    let (script, now) = Script::new([Attempt::Stays(vec![]), Attempt::Says(vec![challenge(), config()])]);
    let (result, causes) = registered(&mut ScriptTransport(script.clone(), now)).await;
    assert!(result.is_ok());
    assert_eq!(*script.tried.borrow(), [0, 75]);
    assert!(causes[0].contains("did not answer within 60 s"), "{causes:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_out_of_order_or_unreadable_is_refused_by_name() {
    for (frame, code) in [
        (done(), RefusalCode::UnexpectedMessage),
        ("{\"type\":\"dance\"}".to_owned(), RefusalCode::UnknownMessage),
        ("{\"type\":\"challenge\"".to_owned(), RefusalCode::MalformedMessage),
        (" ".repeat(message::MAX_FRAME + 1), RefusalCode::MessageTooBig),
    ] {
        let (script, now) = Script::new([Attempt::Says(vec![frame])]);
        let error = registered(&mut ScriptTransport(script, now)).await.0.unwrap_err();
        assert_eq!(error.refusal().map(|refusal| refusal.code), Some(code));
    }
}

fn writing(bytes: u64) -> Option<Progress> {
    Some(Progress { phase: InstallPhase::Writing, bytes, total_bytes: 100, message: String::new() })
}

/// An installation with this number of steps, each of which takes `pause`.
async fn write_on(progress: watch::Sender<Option<Progress>>, steps: u64, pause: Duration) {
    for bytes in 0..steps {
        progress.send_replace(writing(bytes));
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_installation_goes_on_while_the_operator_is_away_and_is_reported_afterwards() {
    let (script, now) = Script::new([
        Attempt::Says(vec![challenge(), config()]),
        Attempt::Down(io::ErrorKind::ConnectionRefused),
        Attempt::Stays(vec![challenge(), done()]),
    ]);
    let mut transport = ScriptTransport(script.clone(), now);
    let identity = identity();
    let mut exchange = Exchange::open(&mut transport, &identity).await.unwrap();
    exchange.configure(MachineReport::default()).await.unwrap();
    let mut relay = Relay::new(transport, identity, exchange, || 0.5);
    let (sender, updates) = watch::channel(None);
    let install = async {
        write_on(sender, 20, Duration::from_millis(500)).await;
        now.elapsed()
    };
    let ((), took) = tokio::join!(relay.run(updates), install);
    assert_eq!(took.as_secs(), 10, "the writing was held up");
    relay.finish(Done::default()).await.unwrap();
    let heard = script.heard.borrow();
    assert_eq!(heard[..3], ["hello", "proof", "machine"]);
    assert_eq!(heard[heard.len() - 3..], ["hello", "proof", "done"]);
    assert!(script.attempts.borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn progress_is_sent_once_a_second_and_the_wait_at_the_end_is_bounded() {
    let downs = (0..10).map(|_| Attempt::Down(io::ErrorKind::ConnectionRefused));
    let (script, now) = Script::new(std::iter::once(Attempt::Stays(vec![challenge()])).chain(downs));
    let mut transport = ScriptTransport(script.clone(), now);
    let identity = identity();
    let exchange = Exchange::open(&mut transport, &identity).await.unwrap();
    let mut relay = Relay::new(transport, identity, exchange, || 0.5);
    let (sender, updates) = watch::channel(None);
    tokio::join!(relay.run(updates), write_on(sender, 50, Duration::from_millis(100)));
    let progress = script.heard.borrow().iter().filter(|kind| **kind == "progress").count();
    assert!((4..=6).contains(&progress), "{progress} reports in five seconds");
    let error = relay.finish(Done::default()).await.unwrap_err();
    assert!(matches!(error, ExchangeError::TimedOut { seconds: 60 }), "{error}");
    assert!(now.elapsed() < Duration::from_secs(70));
}

#[tokio::test(start_paused = true)]
async fn an_operator_that_wants_no_progress_gets_none() {
    let refused = |code, retry_after: Option<u64>| {
        let mut refusal = Refusal::new(code, "no");
        refusal.retry_after = retry_after;
        message::encode(&FromOperator::Refused(refusal)).unwrap()
    };
    let (script, now) = Script::new([
        Attempt::Stays(vec![challenge(), refused(RefusalCode::Busy, Some(60))]),
        Attempt::Stays(vec![challenge(), refused(RefusalCode::UnknownMachine, None)]),
        Attempt::Stays(vec![challenge(), done()]),
    ]);
    let mut transport = ScriptTransport(script.clone(), now);
    let identity = identity();
    let exchange = Exchange::open(&mut transport, &identity).await.unwrap();
    let mut relay = Relay::new(transport, identity, exchange, || 0.0);
    let (sender, updates) = watch::channel(None);
    tokio::join!(relay.run(updates), write_on(sender, 300, Duration::from_secs(1)));
    relay.finish(Done::default()).await.unwrap();
    assert_eq!(*script.tried.borrow(), [0, 60, 300], "once when it said so, and then for the last word");
}
