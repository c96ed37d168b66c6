//! `ros-image serve` in a network of its own, beside a DHCP server that knows nothing of network boots.

use crate::install::{SHORT, becomes_ready};
use anyhow::{Context, Result, ensure};
use dhcproto::v4::{Architecture, DhcpOption, Flags, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Encodable};
use harness::fakes::dnsmasq::Dnsmasq;
use harness::fakes::tcp_forwarder::TcpForwarder;
use harness::world::World;
use media::network_set::{GRUB_SCRIPT, IPXE_SCRIPT, NetworkSet, REGISTRATION_ARCHIVE, SHIM, registration_archive};
use qemu::disk::{Disk, GIB};
use qemu::firmware::Firmware;
use qemu::lan::{HOST, Lan, Namespace, SERVERS};
use qemu::machine::{BootFirst, Machine, MachineSpec, Network};
use qemu::paths;
use qemu::process::{Process, printed, succeeded};
use qemu::scratch::Scratch;
use qemu::wait::{Poll, until};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

const TOKEN: &str = "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyzab";
/// The DHCP server's address, and that of `ros-image serve`.
const ADDRESSES: [&str; 2] = ["192.0.2.1/24", "192.0.2.9/24"];
const DHCP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const SERVE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const ANSWERED: Duration = Duration::from_secs(20);
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Starts `ros-image serve` and waits until it serves.
async fn serve(lan: &Lan, address: Ipv4Addr, arguments: &[&str], folder: &Path) -> Result<Process> {
    let program = paths::program("ros-image")?;
    let mut command = lan.servers().command(program.to_str().context("the path of ros-image")?);
    command.args(["serve", "--json", "--interface", SERVERS, "--address", &address.to_string()]).args(arguments);
    let mut process = Process::start(&mut command, &folder.join("serve.log"))?;
    told(&mut process, "serving", |_| true).await?;
    Ok(process)
}

/// Waits for an event.
async fn told(process: &mut Process, event: &str, right: impl Fn(&Value) -> bool) -> Result<Value> {
    until(&format!("the event {event} of ros-image serve"), ANSWERED, async || {
        process.check_running()?;
        let lines = process.output();
        let mut events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found = events.find(|told| told["event"] == event && right(told));
        Ok(found.map_or_else(|| Poll::Pending(process.log_tail()), Poll::Ready))
    })
    .await
}

/// A machine that starts from the network, up to the point where it runs what it has loaded.
struct Client<'a> {
    host: &'a Namespace,
    class: &'a str,
    architecture: u16,
    ipxe: bool,
}

impl Client<'_> {
    fn message(&self, kind: MessageType, address: Ipv4Addr) -> Message {
        let none = Ipv4Addr::UNSPECIFIED;
        let mut message = Message::new(address, none, none, none, &MAC);
        message.set_flags(Flags::default().set_broadcast());
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ClassIdentifier(self.class.as_bytes().to_vec()));
        options.insert(DhcpOption::ClientSystemArchitecture(Architecture(self.architecture)));
        if self.ipxe {
            options.insert(DhcpOption::UserClass(b"iPXE".to_vec()));
        }
        message
    }

    /// The offers for one DISCOVER: of the server of addresses, and of the server of boot files.
    fn discover(&self) -> Result<(Message, Message)> {
        self.host.within(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68)).context("binding the client's port")?;
            socket.set_broadcast(true).context("allowing broadcasts")?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &HOST.into())
                .context("binding to the interface")?;
            let discover = self.message(MessageType::Discover, Ipv4Addr::UNSPECIFIED);
            let (mut address, mut file) = (None, None);
            let deadline = Instant::now() + ANSWERED;
            socket.set_read_timeout(Some(Duration::from_secs(2))).context("limiting the wait")?;
            while Instant::now() < deadline {
                socket.send_to(&discover.to_vec()?, (Ipv4Addr::BROADCAST, 67)).context("sending the DISCOVER")?;
                while let Ok(offer) = receive(&socket) {
                    if offer.xid() != discover.xid() || offer.opts().msg_type() != Some(MessageType::Offer) {
                        continue;
                    }
                    let is_proxy = offer.yiaddr().is_unspecified();
                    *(if is_proxy { &mut file } else { &mut address }) = Some(offer);
                    if let (Some(address), Some(file)) = (&address, &file) {
                        return Ok((address.clone(), file.clone()));
                    }
                }
            }
            anyhow::bail!("not both servers answered: {address:?} {file:?}")
        })
    }

    /// Asks the boot server's port, as UEFI does.
    fn ask_boot_server(&self, address: Ipv4Addr) -> Result<Message> {
        self.host.within(|| {
            let socket = UdpSocket::bind((address, 68)).context("binding the client's port")?;
            socket.set_read_timeout(Some(ANSWERED)).context("limiting the wait")?;
            let request = self.message(MessageType::Request, address).to_vec()?;
            socket.send_to(&request, (SERVE, 4011)).context("sending the request")?;
            receive(&socket)
        })
    }
}

fn receive(socket: &UdpSocket) -> Result<Message> {
    let mut packet = [0; 1500];
    let length = socket.recv(&mut packet).context("waiting for an answer")?;
    Message::from_bytes(&packet[..length]).context("reading an answer")
}

fn file(message: &Message) -> String {
    let name = message.fname().unwrap_or_default();
    String::from_utf8_lossy(name).trim_end_matches('\0').to_owned()
}

/// A folder as `ros-image build` writes it, with large and small files.
fn network_set(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (number, name) in NetworkSet::FILES.into_iter().chain([IPXE_SCRIPT, GRUB_SCRIPT]).enumerate() {
        let content: Vec<u8> = (0..number * 100_000 + 7).map(|byte| (byte % 251) as u8).collect();
        fs::write(folder.join(name), content)?;
    }
    Ok(fs::write(folder.join(REGISTRATION_ARCHIVE), registration_archive(&[])?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_has_its_address_from_one_server_and_its_boot_file_from_the_other() {
    let scratch = Scratch::new("serve").unwrap();
    let (set, settings) = (scratch.path().join("pxe"), scratch.path().join("registration.yaml"));
    network_set(&set).unwrap();
    let url = format!("https://ros.example.org/v1-rancheros/registration/{TOKEN}");
    let text = format!("#cloud-config\nrancheros: {{install: {{registrationURL: '{url}'}}}}\n");
    fs::write(&settings, &text).unwrap();
    fs::write(scratch.path().join("undionly.kpxe"), "iPXE").unwrap();

    let lan = Lan::new(&ADDRESSES).unwrap();
    let host = lan.host().unwrap();
    let mut dnsmasq = Dnsmasq::start(&lan, "192.0.2.100,192.0.2.150", scratch.path()).unwrap();
    let undionly = scratch.path().join("undionly.kpxe");
    let paths = [&set, &settings, &undionly].map(|path| path.to_str().unwrap());
    let arguments = ["--pxe", paths[0], "--registration", paths[1], "--undionly", paths[2]];
    let mut server = serve(&lan, SERVE, &arguments, scratch.path()).await.unwrap();
    strangers(&host).unwrap();

    // Every kind of machine gets an address from dnsmasq, and its own file from the server.
    let uefi = Client { host: &host, class: "PXEClient:Arch:00007:UNDI:003001", architecture: 7, ipxe: false };
    let refused = "this-release-is-for-x86-64-and-not-for-";
    for (class, architecture, ipxe, name) in [
        ("PXEClient:Arch:00000:UNDI:002001", 0, false, "undionly.kpxe".to_owned()),
        ("PXEClient:Arch:00000:UNDI:002001", 0, true, format!("http://{SERVE}:8080/boot.ipxe")),
        ("PXEClient:Arch:00009:UNDI:003001", 9, false, SHIM.to_owned()),
        ("HTTPClient:Arch:00016:UNDI:003001", 16, false, format!("http://{SERVE}:8080/{SHIM}")),
        ("PXEClient:Arch:00006:UNDI:003001", 6, false, format!("{refused}32-bit-UEFI")),
        ("HTTPClient:Arch:00019:UNDI:003001", 19, false, format!("http://{SERVE}:8080/{refused}ARM")),
    ] {
        let (address, offer) = Client { host: &host, class, architecture, ipxe }.discover().unwrap();
        let id = address.opts().get(OptionCode::ServerIdentifier);
        assert_eq!(
            (id, address.yiaddr().octets()[..3].to_vec()),
            (Some(&DhcpOption::ServerIdentifier(DHCP)), vec![192, 0, 2])
        );
        assert_eq!((file(&offer), offer.siaddr()), (name, SERVE), "{class}");
    }
    let (address, offer) = uefi.discover().unwrap();
    let address = address.yiaddr();
    host.ip(&["address", "add", &format!("{address}/24"), "dev", HOST]).unwrap();
    assert_eq!((file(&offer), file(&uefi.ask_boot_server(address).unwrap())), (SHIM.to_owned(), SHIM.to_owned()));

    // The files are the same by both protocols, however shim and GRUB write their paths.
    for name in NetworkSet::FILES {
        for url in [format!("tftp://{SERVE}//{name}"), format!("http://{SERVE}:8080//{name}")] {
            assert!(fetch(&host, &url, scratch.path()).unwrap() == fs::read(set.join(name)).unwrap(), "{url}");
        }
    }
    let archive = fetch(&host, &format!("tftp://{SERVE}/{REGISTRATION_ARCHIVE}"), scratch.path()).unwrap();
    assert!(archive == registration_archive(text.as_bytes()).unwrap());
    for url in [format!("tftp://{SERVE}//etc/passwd"), format!("http://{SERVE}:8080/etc/passwd")] {
        assert!(fetch(&host, &url, scratch.path()).is_err(), "{url}");
        told(&mut server, "unknown", |event| url.to_uppercase().starts_with(event["protocol"].as_str().unwrap()))
            .await
            .unwrap();
    }
    told(&mut server, "loaded", |event| event["file"] == SHIM && event["protocol"] == "HTTP").await.unwrap();
    told(&mut server, "refused", |event| event["firmware"] == "32-bit UEFI").await.unwrap();

    // The other server goes on, its renewals included, and the end is a clean one.
    dnsmasq.process.check_running().unwrap();
    renews(&host, address).unwrap();
    assert!(!server.output().contains(TOKEN) && !server.output().contains("warning"), "{}", server.output());
    server.terminate().unwrap();
    assert_eq!(server.wait(ANSWERED).await.unwrap().code(), Some(0));
}

/// Packets of which none is an honest one.
fn strangers(host: &Namespace) -> Result<()> {
    host.within(|| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).context("binding a port")?;
        socket.set_broadcast(true).context("allowing broadcasts")?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::BindToDevice, &HOST.into())
            .context("binding to the interface")?;
        let mut state = 1_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for number in 0..2000 {
            let mut packet: Vec<u8> = (0..usize::from(random()) * 4).map(|_| random()).collect();
            if number % 2 == 0 && packet.len() > 240 {
                packet[0] = 1;
                packet[24..28].fill(0);
                packet[236..240].copy_from_slice(&[99, 130, 83, 99]);
            }
            for port in [67, 4011, 69] {
                // A full queue of the interface loses packets.
                let _ = socket.send_to(&packet, (Ipv4Addr::BROADCAST, port));
            }
        }
        Ok(())
    })
}

/// Renews the lease with dnsmasq, by unicast as clients do.
fn renews(host: &Namespace, address: Ipv4Addr) -> Result<()> {
    let client = Client { host, class: "MSFT 5.0", architecture: 7, ipxe: false };
    let answer = host.within(|| {
        let socket = UdpSocket::bind((address, 68)).context("binding the client's port")?;
        socket.set_read_timeout(Some(ANSWERED)).context("limiting the wait")?;
        let renewal = client.message(MessageType::Request, address).to_vec()?;
        socket.send_to(&renewal, (DHCP, 67)).context("sending the renewal")?;
        receive(&socket)
    })?;
    ensure!(answer.opts().msg_type() == Some(MessageType::Ack), "{answer:?}");
    ensure!(answer.siaddr() == DHCP, "{answer:?}");
    Ok(())
}

/// What curl downloads.
fn fetch(host: &Namespace, url: &str, folder: &Path) -> Result<Vec<u8>> {
    let output = folder.join("download");
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--fail", "--path-as-is", "--max-time", "20", "--tftp-blksize", "1400"]);
    succeeded(curl.arg("--output").arg(&output).arg(url))?;
    Ok(fs::read(&output)?)
}

#[test]
fn serve_says_what_it_needs() {
    let scratch = Scratch::new("serve-needs").unwrap();
    let set = scratch.path().join("pxe");
    network_set(&set).unwrap();
    let lan = Lan::new(&ADDRESSES).unwrap();
    let program = paths::program("ros-image").unwrap();
    for (arguments, message) in [
        (&["--interface", "eth7"][..], "this host has no network interface eth7; it has lo, servers"),
        (
            &["--interface", SERVERS, "--address", "192.0.2.7"],
            "servers has no address 192.0.2.7; it has 192.0.2.1, 192.0.2.9",
        ),
        (&["--interface", SERVERS], "has no settings: give --registration"),
        (&["--interface", SERVERS, "--undionly", "/nowhere/undionly.kpxe"], "opening /nowhere/undionly.kpxe"),
    ] {
        let mut command = lan.servers().command(program.to_str().unwrap());
        command.args(["serve", "--pxe"]).arg(&set).args(arguments);
        if !message.contains("settings") {
            let settings = scratch.path().join("registration.yaml");
            fs::write(&settings, "#cloud-config\n{}\n").unwrap();
            command.arg("--registration").arg(settings);
        }
        let output = command.output().unwrap();
        assert!(!output.status.success() && printed(&output).contains(message), "{}", printed(&output));
    }
}

/// UEFI's own PXE, then shim and GRUB, from a server that is not the DHCP server.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_serve_on_secure_boot() {
    installs("serve-secure-boot", Firmware::SecureBoot, true).await;
}

/// iPXE in the ROM of the network card.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_serve_on_bios() {
    installs("serve-bios", Firmware::Bios, true).await;
}

/// UEFI's own HTTP boot, then shim and GRUB.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_serve_on_uefi_by_http() {
    installs("serve-http", Firmware::Uefi, false).await;
}

/// `pxe`: the firmware starts by PXE, and not by HTTP boot.
async fn installs(name: &str, firmware: Firmware, pxe: bool) {
    let world = World::builder(name).unwrap().start().await.unwrap();
    let registration = world.settings(world.example_registration().unwrap()).await.unwrap();
    // The operator tells machines this address.
    let operator: SocketAddrV4 = world.operator.url().trim_start_matches("https://").parse().unwrap();
    let lan = Lan::new(&[&format!("{}/24", operator.ip()), "10.0.2.9/24"]).unwrap();
    let _forwarder = TcpForwarder::start(lan.servers(), operator.into()).unwrap();
    let folder = world.folder("servers").unwrap();
    let _dnsmasq = Dnsmasq::start(&lan, "10.0.2.100,10.0.2.150", &folder).unwrap();
    let iso = paths::iso().unwrap();
    let arguments = ["--iso", iso.to_str().unwrap(), "--registration", registration.to_str().unwrap()];
    let mut server = serve(&lan, Ipv4Addr::new(10, 0, 2, 9), &arguments, &folder).await.unwrap();
    let mut spec = MachineSpec::new(firmware, "SERVE-1");
    spec.network = Network::Lan { namespace: lan.servers().name().to_owned(), tap: lan.tap().unwrap(), pxe };
    spec.first = BootFirst::Medium;
    spec.memory_mib = 512;
    spec.disks.push(Disk::empty(world.path(), "root", 4 * GIB).unwrap());
    let mut machine = world.machine(spec).await.unwrap();
    machine.power_on().await.unwrap();
    becomes_ready(&world, &mut machine).await;
    let (first, protocol) = match firmware {
        Firmware::Bios => (IPXE_SCRIPT, "HTTP"),
        _ => (SHIM, if pxe { "TFTP" } else { "HTTP" }),
    };
    for (file, protocol) in [(first, protocol), (REGISTRATION_ARCHIVE, protocol)] {
        told(&mut server, "loaded", |event| event["file"] == file && event["protocol"] == protocol).await.unwrap();
    }
    let events = server.output();
    assert!(!events.contains("interrupted") && !events.contains("warning"), "{events}");
    let settings = fs::read_to_string(&registration).unwrap();
    let token =
        settings.split("/registration/").nth(1).unwrap().split(|other: char| !other.is_alphanumeric()).next().unwrap();
    assert!(token.len() > 20 && !server.output().contains(token), "the token is in the server's log");
}

/// A machine with 32-bit UEFI shows why it does not start.
#[tokio::test(flavor = "multi_thread")]
async fn matrix_serve_tells_a_machine_of_another_architecture() {
    let scratch = Scratch::new("serve-other-architecture").unwrap();
    let (set, settings) = (scratch.path().join("pxe"), scratch.path().join("registration.yaml"));
    network_set(&set).unwrap();
    fs::write(&settings, "#cloud-config\n{}\n").unwrap();
    let lan = Lan::new(&ADDRESSES).unwrap();
    let _dnsmasq = Dnsmasq::start(&lan, "192.0.2.100,192.0.2.150", scratch.path()).unwrap();
    let arguments = ["--pxe", set.to_str().unwrap(), "--registration", settings.to_str().unwrap()];
    let mut server = serve(&lan, SERVE, &arguments, scratch.path()).await.unwrap();
    let mut spec = MachineSpec::new(Firmware::Uefi32, "SERVE-32");
    spec.network = Network::Lan { namespace: lan.servers().name().to_owned(), tap: lan.tap().unwrap(), pxe: true };
    spec.first = BootFirst::Medium;
    spec.tpm = None;
    let mut machine = Machine::assemble(&scratch.folder("machine").unwrap(), spec).await.unwrap();
    machine.power_on().await.unwrap();
    let reason = "this-release-is-for-x86-64-and-not-for-32-bit-UEFI";
    machine.console().wait_for("the reason on the console", SHORT, |line| line.contains(reason)).await.unwrap();
    told(&mut server, "refused", |event| event["file"] == reason).await.unwrap();
}
