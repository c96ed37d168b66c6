//! The order of messages. Each end keeps the state of its side of the exchange and passes every frame through it:
//!
//! ```text
//! hello → challenge → proof → machine → config → progress* → done → done
//!                           → booted | report ─────────────→ done → done
//!                           → progress* ───────────────────→ done → done
//! ```
//!
//! A machine without a TPM opens with `secretHello → secretChallenge → secretProof`. The two openings have no stage in
//! common, so an exchange cannot mix them.
//!
//! The operator may send `refused` at any time, also when it is the machine's turn. That ends the exchange. Nothing
//! here reads, writes or waits. The owner of the socket keeps the deadlines.

use crate::message::{
    Challenge, Config, Done, FromMachine, FromOperator, Hello, MachineReport, OsReport, Progress, Proof, Recorded,
    SecretChallenge, SecretHello, SecretProof, decode, encode,
};
use crate::refusal::{Refusal, RefusalCode};

/// The operator's side.
#[derive(Debug)]
pub struct OperatorSide(Stage);

/// The machine's side.
#[derive(Debug)]
pub struct MachineSide(Stage);

/// How a machine proves its identity.
#[derive(Clone, Debug, PartialEq)]
pub enum Opening {
    Tpm(Hello),
    SharedSecret(SecretHello),
}

/// The request of a machine after it has proved its identity.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// To be registered and configured; answered by `config`.
    Machine(Box<MachineReport>),
    /// To be recorded as running: the first report after a boot.
    Booted(Box<OsReport>),
    Report(Box<OsReport>),
    /// To go on with an installation that another connection began.
    Installing(Installing),
}

/// A report of a machine during an installation.
#[derive(Clone, Debug, PartialEq)]
pub enum Installing {
    Progress(Progress),
    Done(Done),
}

/// The message that may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Challenge,
    Proof,
    SecretChallenge,
    SecretProof,
    Statement,
    Config,
    Progress,
    MachineDone,
    OperatorDone,
    Over,
}

impl Default for OperatorSide {
    fn default() -> Self {
        Self(Stage::Hello)
    }
}

impl Default for MachineSide {
    fn default() -> Self {
        Self(Stage::Hello)
    }
}

/// Every `receive_…` reads one text frame. Its error is the refusal to send, and the exchange is then over.
impl OperatorSide {
    pub fn receive_opening(&mut self, frame: &str) -> Result<Opening, Refusal> {
        match self.receive(frame)? {
            FromMachine::Hello(hello) => Ok(Opening::Tpm(hello)),
            FromMachine::SecretHello(hello) => Ok(Opening::SharedSecret(hello)),
            other => Err(unexpected(other.kind(), Stage::Hello.expects())),
        }
    }

    pub fn receive_proof(&mut self, frame: &str) -> Result<Proof, Refusal> {
        match self.receive(frame)? {
            FromMachine::Proof(proof) => Ok(proof),
            other => Err(unexpected(other.kind(), &["proof"])),
        }
    }

    pub fn receive_secret_proof(&mut self, frame: &str) -> Result<SecretProof, Refusal> {
        match self.receive(frame)? {
            FromMachine::SecretProof(proof) => Ok(proof),
            other => Err(unexpected(other.kind(), Stage::SecretProof.expects())),
        }
    }

    pub fn receive_statement(&mut self, frame: &str) -> Result<Statement, Refusal> {
        match self.receive(frame)? {
            FromMachine::Machine(report) => Ok(Statement::Machine(report)),
            FromMachine::Booted(report) => Ok(Statement::Booted(report)),
            FromMachine::Report(report) => Ok(Statement::Report(report)),
            FromMachine::Progress(progress) => Ok(Statement::Installing(Installing::Progress(progress))),
            FromMachine::Done(done) => Ok(Statement::Installing(Installing::Done(done))),
            other => Err(unexpected(other.kind(), Stage::Statement.expects())),
        }
    }

    /// After `config`, `booted`, `report` or `progress`: more progress, or the machine's `done`.
    pub fn receive_installing(&mut self, frame: &str) -> Result<Installing, Refusal> {
        match self.receive(frame)? {
            FromMachine::Progress(progress) => Ok(Installing::Progress(progress)),
            FromMachine::Done(done) => Ok(Installing::Done(done)),
            other => Err(unexpected(other.kind(), Stage::Progress.expects())),
        }
    }

    pub fn send_challenge(&mut self, challenge: Challenge) -> Result<String, Refusal> {
        self.send(&FromOperator::Challenge(challenge))
    }
    pub fn send_secret_challenge(&mut self, challenge: SecretChallenge) -> Result<String, Refusal> {
        self.send(&FromOperator::SecretChallenge(challenge))
    }
    pub fn send_config(&mut self, config: Config) -> Result<String, Refusal> {
        self.send(&FromOperator::Config(Box::new(config)))
    }
    /// `recorded`: the answer to a machine's report.
    pub fn send_done(&mut self, recorded: Recorded) -> Result<String, Refusal> {
        self.send(&FromOperator::Done(Box::new(recorded)))
    }
    /// Ends the exchange at any point.
    pub fn refuse(&mut self, refusal: Refusal) -> Result<String, Refusal> {
        self.send(&FromOperator::Refused(refusal))
    }

    /// True once `done` was answered or a refusal was sent.
    pub fn is_over(&self) -> bool {
        self.0 == Stage::Over
    }

    fn receive(&mut self, frame: &str) -> Result<FromMachine, Refusal> {
        let message = decode(frame)?;
        self.0 = self.0.after_machine(&message)?;
        Ok(message)
    }

    fn send(&mut self, message: &FromOperator) -> Result<String, Refusal> {
        self.0 = self.0.after_operator(message)?;
        encode(message)
    }
}

/// Every `receive_…` reads one text frame. Its error is the operator's refusal, or our refusal of the operator's
/// message.
impl MachineSide {
    pub fn receive_challenge(&mut self, frame: &str) -> Result<Challenge, Refusal> {
        match self.receive(frame)? {
            FromOperator::Challenge(challenge) => Ok(challenge),
            other => Err(unexpected(other.kind(), &["challenge"])),
        }
    }

    pub fn receive_secret_challenge(&mut self, frame: &str) -> Result<SecretChallenge, Refusal> {
        match self.receive(frame)? {
            FromOperator::SecretChallenge(challenge) => Ok(challenge),
            other => Err(unexpected(other.kind(), Stage::SecretChallenge.expects())),
        }
    }

    pub fn receive_config(&mut self, frame: &str) -> Result<Config, Refusal> {
        match self.receive(frame)? {
            FromOperator::Config(config) => Ok(*config),
            other => Err(unexpected(other.kind(), &["config"])),
        }
    }

    pub fn receive_done(&mut self, frame: &str) -> Result<Recorded, Refusal> {
        match self.receive(frame)? {
            FromOperator::Done(recorded) => Ok(*recorded),
            other => Err(unexpected(other.kind(), &["done"])),
        }
    }

    /// A frame from the operator while it is the machine's turn. Only a refusal is allowed.
    pub fn receive_interruption(&mut self, frame: &str) -> Refusal {
        match self.receive(frame) {
            Ok(other) => unexpected(other.kind(), self.0.expects()),
            Err(refusal) => refusal,
        }
    }

    pub fn send(&mut self, message: &FromMachine) -> Result<String, Refusal> {
        self.0 = self.0.after_machine(message)?;
        encode(message)
    }

    /// True once the operator answered `done` or refused.
    pub fn is_over(&self) -> bool {
        self.0 == Stage::Over
    }

    fn receive(&mut self, frame: &str) -> Result<FromOperator, Refusal> {
        let message = decode(frame)?;
        self.0 = self.0.after_operator(&message)?;
        match message {
            FromOperator::Refused(refusal) => Err(refusal),
            message => Ok(message),
        }
    }
}

impl Stage {
    fn after_machine(self, message: &FromMachine) -> Result<Stage, Refusal> {
        use FromMachine as M;
        match (self, message) {
            (Stage::Hello, M::Hello(_)) => Ok(Stage::Challenge),
            (Stage::Proof, M::Proof(_)) => Ok(Stage::Statement),
            (Stage::Hello, M::SecretHello(_)) => Ok(Stage::SecretChallenge),
            (Stage::SecretProof, M::SecretProof(_)) => Ok(Stage::Statement),
            (Stage::Statement, M::Machine(_)) => Ok(Stage::Config),
            (Stage::Statement, M::Booted(_) | M::Report(_)) => Ok(Stage::MachineDone),
            (Stage::Statement | Stage::Progress, M::Progress(_)) => Ok(Stage::Progress),
            (Stage::Statement | Stage::Progress | Stage::MachineDone, M::Done(_)) => Ok(Stage::OperatorDone),
            _ => Err(unexpected(message.kind(), self.expects())),
        }
    }

    fn after_operator(self, message: &FromOperator) -> Result<Stage, Refusal> {
        use FromOperator as O;
        match (self, message) {
            (_, O::Refused(_)) => Ok(Stage::Over),
            (Stage::Challenge, O::Challenge(_)) => Ok(Stage::Proof),
            (Stage::SecretChallenge, O::SecretChallenge(_)) => Ok(Stage::SecretProof),
            (Stage::Config, O::Config(_)) => Ok(Stage::Progress),
            (Stage::OperatorDone, O::Done(_)) => Ok(Stage::Over),
            _ => Err(unexpected(message.kind(), self.expects())),
        }
    }

    fn expects(self) -> &'static [&'static str] {
        match self {
            Stage::Hello => &["hello", "secretHello"],
            Stage::Challenge => &["challenge"],
            Stage::Proof => &["proof"],
            Stage::SecretChallenge => &["secretChallenge"],
            Stage::SecretProof => &["secretProof"],
            Stage::Statement => &["machine", "booted", "report", "progress", "done"],
            Stage::Config => &["config"],
            Stage::Progress => &["progress", "done"],
            Stage::MachineDone => &["done"],
            Stage::OperatorDone => &["the operator's done"],
            Stage::Over => &["nothing"],
        }
    }
}

fn unexpected(message: &str, expected: &[&str]) -> Refusal {
    let text = format!("`{message}` is not expected here; expected: {}", expected.join(" or "));
    Refusal::new(RefusalCode::UnexpectedMessage, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> FromMachine {
        FromMachine::Hello(Hello {
            versions: vec![1],
            ek_public: vec![1],
            ek_certificates: vec![],
            ak_public: vec![2],
            client: None,
        })
    }
    fn challenge() -> Challenge {
        Challenge {
            version: 1,
            credential: vec![],
            encrypted_secret: vec![],
            nonce: vec![0; 32],
            pcrs: vec![0],
            correlation: "c".into(),
        }
    }
    fn proof() -> FromMachine {
        FromMachine::Proof(Proof { secret: vec![], quote: vec![], signature: vec![], event_log: None })
    }
    fn secret_hello() -> FromMachine {
        FromMachine::SecretHello(SecretHello { versions: vec![1], digest: vec![0; 32], client: None })
    }
    fn secret_challenge() -> SecretChallenge {
        SecretChallenge { version: 1, nonce: vec![0; 32], correlation: "c".into() }
    }
    fn secret_proof() -> FromMachine {
        FromMachine::SecretProof(SecretProof { answer: vec![1] })
    }
    fn config() -> Config {
        Config {
            inventory: "fleet-default/m-1".into(),
            cloud_config: Default::default(),
            install_seconds: 1800,
            report_seconds: 300,
        }
    }
    fn progress() -> FromMachine {
        let phase = crate::message::InstallPhase::Writing;
        FromMachine::Progress(Progress { phase, bytes: 1, total_bytes: 2, message: String::new() })
    }
    fn done() -> FromMachine {
        FromMachine::Done(Done::default())
    }

    /// Both sides, after the machine has proved its identity.
    fn proven() -> (OperatorSide, MachineSide) {
        let (mut operator, mut machine) = (OperatorSide::default(), MachineSide::default());
        operator.receive_opening(&machine.send(&hello()).unwrap()).unwrap();
        machine.receive_challenge(&operator.send_challenge(challenge()).unwrap()).unwrap();
        operator.receive_proof(&machine.send(&proof()).unwrap()).unwrap();
        (operator, machine)
    }

    fn finish(mut operator: OperatorSide, mut machine: MachineSide) {
        let last = operator.receive_installing(&machine.send(&done()).unwrap()).unwrap();
        assert_eq!(last, Installing::Done(Done::default()));
        machine.receive_done(&operator.send_done(Recorded::default()).unwrap()).unwrap();
        assert!(operator.is_over() && machine.is_over());
    }

    #[test]
    fn an_installation_goes_through() {
        let (mut operator, mut machine) = proven();
        let statement = operator.receive_statement(&machine.send(&FromMachine::Machine(Box::default())).unwrap());
        assert_eq!(statement, Ok(Statement::Machine(Box::default())));
        assert_eq!(machine.receive_config(&operator.send_config(config()).unwrap()), Ok(config()));
        for _ in 0..3 {
            operator.receive_installing(&machine.send(&progress()).unwrap()).unwrap();
        }
        finish(operator, machine);
    }

    #[test]
    fn an_installation_goes_on_over_another_connection() {
        let (mut operator, mut machine) = proven();
        operator.receive_statement(&machine.send(&progress()).unwrap()).unwrap();
        finish(operator, machine);
    }

    #[test]
    fn a_refusal_ends_the_exchange_at_any_point() {
        let (mut operator, mut machine) = proven();
        let refusal = Refusal::new(RefusalCode::ApprovalPending, "wait").retry_after(60);
        let frame = operator.refuse(refusal.clone()).unwrap();
        assert_eq!(machine.receive_config(&frame), Err(refusal));
        assert!(operator.is_over() && machine.is_over());
        assert_eq!(machine.send(&done()).unwrap_err().code, RefusalCode::UnexpectedMessage);
    }

    #[test]
    fn a_machine_without_a_tpm_opens_with_its_secret_and_goes_on_like_any_other() {
        let (mut operator, mut machine) = (OperatorSide::default(), MachineSide::default());
        let opening = operator.receive_opening(&machine.send(&secret_hello()).unwrap()).unwrap();
        assert!(matches!(opening, Opening::SharedSecret(_)));
        let challenge = operator.send_secret_challenge(secret_challenge()).unwrap();
        assert_eq!(machine.receive_secret_challenge(&challenge), Ok(secret_challenge()));
        operator.receive_secret_proof(&machine.send(&secret_proof()).unwrap()).unwrap();
        operator.receive_statement(&machine.send(&progress()).unwrap()).unwrap();
        finish(operator, machine);
    }

    proptest! {
        /// Tries messages in any order. A machine may send a statement only after one whole opening and no message of
        /// the other.
        #[test]
        fn the_two_openings_cannot_be_mixed(said in proptest::collection::vec(0usize..6, 0..8)) {
            let mut side = OperatorSide::default();
            let mut accepted = Vec::new();
            for what in said {
                let (name, result) = match what {
                    0 => ("hello", side.receive_opening(&encode(&hello()).unwrap()).map(drop)),
                    1 => ("challenge", side.send_challenge(challenge()).map(drop)),
                    2 => ("proof", side.receive_proof(&encode(&proof()).unwrap()).map(drop)),
                    3 => ("secretHello", side.receive_opening(&encode(&secret_hello()).unwrap()).map(drop)),
                    4 => ("secretChallenge", side.send_secret_challenge(secret_challenge()).map(drop)),
                    _ => ("secretProof", side.receive_secret_proof(&encode(&secret_proof()).unwrap()).map(drop)),
                };
                if result.is_ok() {
                    accepted.push(name);
                }
            }
            let is_proven = side.receive_statement(&encode(&progress()).unwrap()).is_ok();
            let openings = [["hello", "challenge", "proof"], ["secretHello", "secretChallenge", "secretProof"]];
            prop_assert_eq!(is_proven, openings.iter().any(|opening| accepted == opening), "{:?}", accepted);
            prop_assert!(openings.iter().any(|opening| opening.starts_with(&accepted)), "{:?}", accepted);
        }
    }

    #[test]
    fn what_is_out_of_order_is_refused_by_name() {
        let refusal = OperatorSide::default().receive_opening(&encode(&proof()).unwrap()).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::UnexpectedMessage);
        assert_eq!(refusal.message, "`proof` is not expected here; expected: hello or secretHello");

        let (mut operator, _) = proven();
        let again = operator.receive_statement(&encode(&hello()).unwrap()).unwrap_err();
        assert_eq!(
            again.message,
            "`hello` is not expected here; expected: machine or booted or report or progress or done"
        );
        // Without a statement there is nothing to configure.
        assert_eq!(operator.send_config(config()).unwrap_err().code, RefusalCode::UnexpectedMessage);
    }
}
