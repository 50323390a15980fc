# Works with OpenBSD's make and with GNU make: no conditionals, no functions.

GO =		go
GOFLAGS =	-trimpath
# Reproducible: no build id of the linker's, no paths, no symbol tables.
LDFLAGS =	-s -w -buildid=
# RACE=1 runs the tests under the race detector (which OpenBSD does not have).
RACE =
# The demo's lists: files with one address or network a line.
BLOCK =
ALLOW =
FUZZTIME =	60s
FUZZTOTAL =
# What only developers run; ./... leaves out directories that begin with a dot.
CI =		./.ci/interop ./.ci/nameserver
# Whose tests test-openbsd builds.
TESTOS =	openbsd
ARCH =		amd64
OPENBSD_ARCHES = amd64 arm64 386 arm ppc64 riscv64

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o build/threatstopd ./agent

# The main job on any machine with Go: the agent, against a simulated kernel
# and a policy server in the same process.
demo:
	@mkdir -p build
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS) -o build/demo ./agent/demo
	@build/demo --block '$(BLOCK)' --allow '$(ALLOW)'

test:
	$(GO) test $(RACE:1=-race) ./... $(CI)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	sh .ci/lint

# Every fuzz target for FUZZTIME, one after the other: with N of them it takes N
# times that, and a few seconds for each package. FUZZTOTAL=10m shares that time
# out among them instead.
fuzz:
	sh .ci/fuzz $(FUZZTIME) $(FUZZTOTAL)

# Known vulnerabilities in what is called. Where the database cannot be reached
# it says NOT CHECKED, which is no failure here; .ci/vuln itself ends with 75.
vuln:
	@sh .ci/vuln || [ $$? = 75 ]

# Loads the same lists into BIND, PowerDNS, NSD and Knot on loopback ports and
# fetches them from each; installs what is missing on Debian when root.
interop:
	$(GO) run ./.ci/interop

# Measures the agent against dig and sed, tcpdump, and curl, on the same data;
# installs what is missing on Debian when root.
compare: build
	CGO_ENABLED=0 $(GO) build $(GOFLAGS) -o build/demo ./agent/demo
	$(GO) run ./agent/demo/compare

# One binary for each architecture of OpenBSD that Go has.
openbsd:
	@for arch in $(OPENBSD_ARCHES); do \
		echo "build/openbsd-$$arch/threatstopd"; \
		CGO_ENABLED=0 GOOS=openbsd GOARCH=$$arch $(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS)' \
			-o build/openbsd-$$arch/threatstopd ./agent || exit 1; \
	done

# One archive with every test, to be unpacked and run on a host without Go:
# see .ci/openbsd/run.
test-openbsd:
	@GO='$(GO)' sh .ci/openbsd/build $(TESTOS) $(ARCH)

clean:
	rm -rf build

.PHONY: all build demo test bench lint fuzz vuln interop compare openbsd test-openbsd clean
