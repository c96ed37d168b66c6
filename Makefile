# The entry points; `make help` lists them.
#
# ROS_CACHE holds what several clones can share: Debian packages, the Kubernetes programs, compiled code. out/ holds what
# belongs to this clone. Each clone's path has its own target folder below ROS_CACHE: cargo judges freshness by time alone,
# so two clones with one target folder would run each other's programs. A new clone at an old path compiles the workspace
# again and takes its dependencies from the cache.

export ROS_CACHE ?= $(HOME)/.cache/rancheros
export CARGO_TARGET_DIR ?= $(ROS_CACHE)/target/$(subst /,_,$(CURDIR))
FIRMWARE ?= uefi
VERSION ?= 0.1.0
SHARD ?= 1/1
CASES ?= 100000
SAMPLE ?= 200
SEED ?= 1
# More options of `ros-image build`, such as --sign keys/private.pem
IMAGE_OPTIONS ?=

CARGO := cargo --locked
PROGRAMS := $(CARGO_TARGET_DIR)/release
BUILD_IMAGE = $(PROGRAMS)/ros-image build --version $(VERSION) --overlay overlay \
  --installer $(PROGRAMS)/ros-installer --init $(PROGRAMS)/ros-init \
  --container-installer $(PROGRAMS)/container-installer $(IMAGE_OPTIONS)
STAGE := tools/stage

.PHONY: help demo demo-upgrade demo-stop test ci qemu-test matrix node-test node-image fuzz power-cut bench image hardware-image chart build packages clean

help: ## Show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: image ## Power on an empty machine, get it installed and registered: FIRMWARE=uefi|secureboot|bios
	$(PROGRAMS)/demo start --firmware $(FIRMWARE)

demo-upgrade: ## Upgrade the machine of a running demo by editing a ManagedOSImage
	@if [ -x $(PROGRAMS)/demo ]; then $(PROGRAMS)/demo upgrade; else echo "no demo was built here; start one with: make demo"; exit 1; fi

demo-stop: ## End what the demo left running
	@if [ -x $(PROGRAMS)/demo ]; then $(PROGRAMS)/demo stop; else echo "no demo was built here"; fi

test: packages ## Check style and dependencies, then test everything, virtual machines included
	$(STAGE) format  $(CARGO) fmt --all --check
	$(STAGE) lint    $(CARGO) clippy --release --workspace --all-targets --features installer/container -- --deny warnings
	$(STAGE) deny    tools/deny
	$(STAGE) build   $(MAKE) --no-print-directory build
	$(STAGE) test    $(CARGO) test --release --workspace -- --skip vm_ --skip iso_ --skip matrix_
	$(STAGE) machine $(MAKE) --no-print-directory qemu-test

qemu-test: image hardware-image ## Run the tests that need the image, most of them in virtual machines
	$(CARGO) test --release --workspace --test scenarios -- vm_ iso_ --test-threads 2

# `ci` does not depend on `matrix`, which would build the image a second time.
ci: test ## Run `make test` and a shard of `make matrix`: SHARD=7/all for one combination
	$(STAGE) matrix  tools/shard $(SHARD) matrix_

matrix: image hardware-image ## Test all combinations of firmware, drive, network and hardware, two hours on two cores: SHARD=1/4 for a quarter
	tools/shard $(SHARD) matrix_

fuzz: packages ## Run the property tests with many inputs, simulated power cuts included: CASES=1000000 for more
	PROPTEST_CASES=$(CASES) $(CARGO) test --release --workspace --lib --bins

node-test: build ## Upgrade virtual machines that are nodes of a cluster, one and then two, while their pods serve
	$(CARGO) test --release --workspace --test scenarios -- nodes:: --test-threads 1 --nocapture

node-image: build ## Make the ISO of a node in out/node-image/: containerd, and the kubelet that the tests build
	$(PROGRAMS)/node-image --version $(VERSION)

power-cut: image ## Check each state that a power cut may leave, and start some, resumable: SAMPLE=200 SEED=1
	[ -e out/power-cut/bios.writes ] || ROS_POWER_CUT_KEEP=1 $(CARGO) test --release --workspace --test scenarios -- --exact --nocapture \
	  install::vm_installs_on_uefi_from_a_cd install::vm_installs_on_bios_from_a_cd_that_stays_first
	ROS_POWER_CUT_SAMPLE=$(SAMPLE) ROS_POWER_CUT_SEED=$(SEED) $(CARGO) test --release --workspace --test scenarios -- \
	  power_cut:: --ignored --nocapture --test-threads 1

bench: image ## Measure speed, sizes and memory
	$(PROGRAMS)/bench --table README.md

image: build chart ## Make the OS release, all its media, and the operator's image in out/image/
	$(STAGE) image   $(BUILD_IMAGE) --formats iso,pxe,oci,raw,qcow2 --output out/image
	$(PROGRAMS)/ros-image operator --output out/image --version $(VERSION) --operator $(PROGRAMS)/ros-operator

hardware-image: build ## Make the ISO for real hardware in out/hardware-image/: drivers for USB, server disks, network cards
	$(STAGE) image   $(BUILD_IMAGE) --output out/hardware-image --kernel generic

chart: build ## Pack the operator's Helm chart in out/chart/
	$(PROGRAMS)/ros-image chart --output out/chart --version $(VERSION)

# container-installer is chosen by --bin from the whole workspace, not by --package: its dependencies then have the features
# with which they are compiled already. tools/rustc links it and ros-init statically.
build: packages ## Build all programs
	$(CARGO) build --release --workspace
	$(CARGO) build --release --workspace --bin container-installer --no-default-features --features installer/container

packages: ## Install the Debian packages that are missing, and say why each is needed
	@tools/install-packages

clean: ## Remove out/ and keep the cache
	rm -rf out
