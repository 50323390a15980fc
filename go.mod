module example.org/threatstopd

go 1.25.0

// The number of processors does not change while a firewall runs: no sysctl(2) every
// second to ask for it.
godebug updatemaxprocs=0

require (
	github.com/google/go-cmp v0.7.0
	github.com/google/gopacket v1.1.19
	github.com/miekg/dns v1.1.73
	github.com/rs/zerolog v1.35.1
	github.com/spf13/pflag v1.1.0
	golang.org/x/net v0.58.0
	golang.org/x/sys v0.47.0
	golang.org/x/term v0.45.0
	golang.org/x/time v0.14.0
	mvdan.cc/sh/v3 v3.13.1
)

require (
	github.com/mattn/go-colorable v0.1.16 // indirect
	github.com/mattn/go-isatty v0.0.24 // indirect
)
