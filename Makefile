# Works with OpenBSD's make and with GNU make: no conditionals, no functions.

GO =		go
GOFLAGS =	-trimpath
# Reproducible: no build id from the linker, no paths, no symbol tables.
LDFLAGS =	-s -w -buildid=
# RACE=1 runs the tests under the race detector (which OpenBSD does not have).
RACE =
# The demo's lists: files with one address or network on each line.
BLOCK =
ALLOW =
# PAGE=yes leaves the status page open at the end of the demo.
PAGE =
FUZZTIME =	60s
FUZZTOTAL =
# Packages that only developers run; ./... skips directories that begin with a dot.
CI =		./.ci/interop ./.ci/nameserver ./.ci/openbsd
# The system for which test-openbsd builds the tests.
TESTOS =	openbsd
ARCH =		amd64
OPENBSD_ARCHES = amd64 arm64 386 arm ppc64 riscv64

all: build

build:
	CGO_ENABLED=0 $(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o build/threatstopd ./agent

# The main job on any machine with Go: the agent with a simulated kernel and a
# policy server in the same process.
demo:
	@mkdir -p build
	@CGO_ENABLED=0 $(GO) build $(GOFLAGS) -o build/demo ./agent/demo
	@build/demo --block '$(BLOCK)' --allow '$(ALLOW)' --page '$(PAGE)'

test:
	@echo 'building and running the tests of all packages: a few minutes; each line is a package that is done'
	$(GO) test $(RACE:1=-race) ./... $(CI)

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./...

lint:
	sh .ci/lint

# Run each fuzz target for FUZZTIME, one after the other, plus a few seconds for
# each package. FUZZTOTAL=10m divides that time, building included, among the
# targets instead; each runs for at least a second.
fuzz:
	sh .ci/fuzz $(FUZZTIME) $(FUZZTOTAL)

# Look for known vulnerabilities in the code that is called. If the database
# cannot be reached, it prints NOT CHECKED, which is not a failure here; .ci/vuln
# itself exits 75.
vuln:
	@sh .ci/vuln || [ $$? = 75 ]

# Load the same lists into BIND, PowerDNS, NSD and Knot on loopback ports and
# fetch them from each; as root on Debian, install what is missing.
interop:
	$(GO) run ./.ci/interop

# Compare the agent with dig and sed, tcpdump, and curl, on the same data; as
# root on Debian, install what is missing.
compare: build
	CGO_ENABLED=0 $(GO) build $(GOFLAGS) -o build/demo ./agent/demo
	$(GO) run ./agent/demo/compare

# One binary for each architecture of OpenBSD that Go supports.
openbsd:
	@for arch in $(OPENBSD_ARCHES); do \
		echo "build/openbsd-$$arch/threatstopd"; \
		CGO_ENABLED=0 GOOS=openbsd GOARCH=$$arch $(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS)' \
			-o build/openbsd-$$arch/threatstopd ./agent || exit 1; \
	done

# One archive with every test, to unpack and run on a host without Go: see
# .ci/openbsd/run.
test-openbsd:
	@GO='$(GO)' sh .ci/openbsd/build $(TESTOS) $(ARCH)

clean:
	rm -rf build

.PHONY: all build demo test bench lint fuzz vuln interop compare openbsd test-openbsd clean
