package config

import (
	"errors"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// required has the keys that a file cannot do without.
var required = []string{
	"device_id=tdid_0a1b2c3d",
	"DNS_SERVERS=192.0.2.53",
	"BLOCK_LISTS=block.example.net",
	"url=https://logs.example.net/",
}

// complete adds to text the required keys that no line of it begins with, unless it
// begins with "# bare".
func complete(text string) string {
	if strings.HasPrefix(text, "# bare") {
		return text
	}
	var b strings.Builder
	b.WriteString(text)
	if text != "" && !strings.HasSuffix(text, "\n") {
		b.WriteString("\n")
	}
	for _, line := range required {
		if key, _, _ := strings.Cut(line, "="); !strings.Contains("\n"+text, "\n"+key+"=") {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

// base is the Config of complete("").
func base() *Config {
	return &Config{
		DeviceID:         "tdid_0a1b2c3d",
		DNSServers:       []string{"192.0.2.53"},
		DNSSiblings:      []string{"basic1", "basic2", "basic3", "basic4"},
		DNSTimeout:       10 * time.Second,
		BlockLists:       []string{"block.example.net"},
		PollInterval:     time.Hour,
		MaxShrink:        0.5,
		ShrinkHold:       24 * time.Hour,
		MinPrefixV4:      8,
		MinPrefixV6:      16,
		MaxEntries:       4000000,
		OutDir:           "/var/db",
		BlockFile:        "/var/db/ThreatSTOP-Block.pftable",
		AllowFile:        "/var/db/ThreatSTOP-Allow.pftable",
		BlockTable:       "ThreatSTOP-Block",
		AllowTable:       "ThreatSTOP-Allow",
		ReloadPF:         true,
		PflogIf:          "pflog0",
		PflogFile:        "/var/log/pflog",
		Upload:           UploadHits,
		URL:              mustURL("https://logs.example.net/"),
		UploadInterval:   15 * time.Minute,
		UploadBatch:      10000,
		UploadBatchBytes: 960 << 10,
		UploadField:      "upload_file",
		UploadIDField:    "device_id",
		SpoolDir:         "/var/spool/threatstop",
		SpoolMax:         64 << 20,
		SpoolAge:         7 * 24 * time.Hour,
		FullCheck:        15 * time.Minute,
		User:             "_threatstop",
	}
}

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

var exact = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmpopts.IgnoreFields(Config{}, "Text"),
	cmp.Comparer(func(a, b *url.Userinfo) bool { return a.String() == b.String() }),
}

// said returns errors and warnings as lines.
func said(warnings []Problem, err error) (e, w []string) {
	if err != nil {
		e = strings.Split(err.Error(), "\n")
	}
	for _, x := range warnings {
		w = append(w, x.Error())
	}
	return e, w
}

// cases are files, completed with the required keys, and what becomes of them.
var cases = []struct {
	name, text string
	want       func(c *Config) // changes to base()
	warn       []string
	bad        []string
}{
	{
		name: "OK minimal",
		text: "",
	},
	{
		name: "OK an unknown key twice, first with no plain value",
		text: "MY=~ MY=0",
		warn: []string{"t.conf:1: MY: unknown key, which has no effect", "t.conf:1: MY: unknown key, which has no effect"},
	},
	{
		name: "OK quotes of each kind, and mixed",
		text: "device_id='tdid_1'\nBLOCK_TABLE=\"Thr\"'ea'tS\nALLOW_TABLE=\\A\\l\"lo\"'w'",
		want: func(c *Config) { c.DeviceID = "tdid_1"; c.BlockTable = "ThreatS"; c.AllowTable = "Allow" },
	},
	{
		name: "OK the old package's style",
		text: "# ThreatSTOP configuration\nOUT_DIR=\"/var/db\"   # where\ndevice_id=\"tdid_0a1b2c3d\"\nBLOCK_FILE=\"$OUT_DIR/Block.pftable\"\nALLOW_FILE=${OUT_DIR}/Allow.pftable\nRELOAD_PF=\"no\"\nlogfile=\"/tmp/ts.log\"\nurl='https://logs.example.net/up?a=1&b=2'\n",
		want: func(c *Config) {
			c.DeviceID = "tdid_0a1b2c3d"
			c.BlockFile = "/var/db/Block.pftable"
			c.AllowFile = "/var/db/Allow.pftable"
			c.ReloadPF = false
			c.URL = mustURL("https://logs.example.net/up?a=1&b=2")
		},
	},
	{
		name: "OK lists over several lines",
		text: "BLOCK_LISTS=\"a.example.net\n\tb.example.net.   c.example.net\n\"\nNEVER_BLOCK='192.0.2.1\n10.0.0.0/8'",
		want: func(c *Config) {
			c.BlockLists = []string{"a.example.net", "b.example.net", "c.example.net"}
			c.NeverBlock = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("10.0.0.0/8")}
		},
	},
	{
		name: "OK a list in two steps",
		text: "BLOCK_LISTS=a.example.net\nBLOCK_LISTS=\"$BLOCK_LISTS b.example.net\"",
		want: func(c *Config) { c.BlockLists = []string{"a.example.net", "b.example.net"} },
	},
	{
		name: "OK a line continued",
		text: "BLOCK_LISTS=a.example\\\n.net\nPOLL_INTERVAL=2h \\\n  MAX_ENTRIES=5\nDNS_SERVERS=\"192.0.2.1 \\\n192.0.2.2\"",
		want: func(c *Config) {
			c.BlockLists = []string{"a.example.net"}
			c.PollInterval = 2 * time.Hour
			c.MaxEntries = 5
			c.DNSServers = []string{"192.0.2.1", "192.0.2.2"}
		},
	},
	{
		name: "OK several assignments on a line",
		text: "POLL_INTERVAL=2h MAX_ENTRIES=5; AGGREGATE=yes",
		want: func(c *Config) { c.PollInterval = 2 * time.Hour; c.MaxEntries = 5; c.Aggregate = true },
	},
	{
		name: "OK export",
		text: "export POLL_INTERVAL=2h BLOCK_TABLE=\"x\"y\nMY=z\nexport ALLOW_TABLE=$MY",
		want: func(c *Config) { c.PollInterval = 2 * time.Hour; c.BlockTable = "xy"; c.AllowTable = "z" },
	},
	{
		name: "OK byte order mark and CRLF",
		text: "\ufeff# a comment\r\n\r\nPOLL_INTERVAL=2h\r\nBLOCK_LISTS=\"a.example.net\r\nb.example.net\"\r\nMAX_ENTRIES=5\\\r\n0\r\n",
		want: func(c *Config) {
			c.PollInterval = 2 * time.Hour
			c.BlockLists = []string{"a.example.net", "b.example.net"}
			c.MaxEntries = 50
		},
	},
	{
		name: "OK no newline at the end",
		text: "# bare\nPOLL_INTERVAL=2h\ndevice_id=tdid_0a1b2c3d\nDNS_SERVERS=192.0.2.53\nBLOCK_LISTS=block.example.net\nurl=https://logs.example.net/",
		want: func(c *Config) { c.PollInterval = 2 * time.Hour },
	},
	{
		name: "OK blank lines and comments in any character set",
		text: "\n   \n\t# gr\xfc\xdfe 'unbalanced\n#POLL_INTERVAL=2h\n  POLL_INTERVAL=3h\n",
		want: func(c *Config) { c.PollInterval = 3 * time.Hour },
	},
	{
		name: "OK a # within a word is no comment",
		text: "logfile=/tmp/a#b",
	},
	{
		name: "OK characters that mean nothing in an assignment",
		text: "logfile=/tmp/*.t?[x]{a,b}!%@=:+,^",
	},
	{
		name: "OK a $ that is only a $",
		text: "logfile='$HOME `x`'\"\\$HOME $ \"\\$x",
	},
	{
		name: "OK a backslash in double quotes stays before other letters",
		text: "logfile=\"/tmp/\\a\\\"\\`\\\\\"",
	},
	{
		name: "OK a key of one's own",
		text: "TS=/usr/local/ts\nOUT_DIR=$TS/db",
		want: func(c *Config) {
			c.OutDir = "/usr/local/ts/db"
			c.BlockFile = "/usr/local/ts/db/ThreatSTOP-Block.pftable"
			c.AllowFile = "/usr/local/ts/db/ThreatSTOP-Allow.pftable"
		},
	},
	{
		name: "OK a key that is unknown",
		text: "version=1.3",
		warn: []string{
			`t.conf:1: version: unknown key, which has no effect`,
		},
	},
	{
		name: "OK keys that are nearly known",
		text: "DNS_SERVER=192.0.2.1\nurll=x\nURL=x\nPOLLINTERVAL=1m\nBLOCK_LIST=x\nexport Never_Block=10.0.0.0/8",
		warn: []string{
			`t.conf:1: DNS_SERVER: unknown key, which has no effect: is DNS_SERVERS meant?`,
			`t.conf:2: urll: unknown key, which has no effect: is url meant?`,
			`t.conf:3: URL: unknown key, which has no effect: is url meant?`,
			`t.conf:4: POLLINTERVAL: unknown key, which has no effect: is POLL_INTERVAL meant?`,
			`t.conf:5: BLOCK_LIST: unknown key, which has no effect: is BLOCK_LISTS meant?`,
			`t.conf:6: Never_Block: unknown key, which has no effect: is NEVER_BLOCK meant?`,
		},
	},
	{
		name: "OK a near key that is used elsewhere",
		text: "OUTDIR=/x\nBLOCK_FILE=$OUTDIR/b",
		want: func(c *Config) { c.BlockFile = "/x/b" },
		warn: []string{
			`t.conf:1: OUTDIR: unknown key: is OUT_DIR meant?`,
		},
	},
	{
		name: "OK a key set again",
		text: "POLL_INTERVAL=2h\nPOLL_INTERVAL=3h",
		want: func(c *Config) { c.PollInterval = 3 * time.Hour },
		warn: []string{
			`t.conf:2: POLL_INTERVAL: set again: this replaces the value of line 1`,
		},
	},
	{
		name: "OK empty values",
		text: "ALLOW_LISTS=\nNEVER_BLOCK=''\nSOURCE_ADDRESS=\"\"\nPROXY= \nRELOAD_PF=\"\"\nPOLL_INTERVAL=' '\n",
		warn: []string{
			`t.conf:5: RELOAD_PF: empty: the default is used, yes`,
			`t.conf:6: POLL_INTERVAL: empty: the default is used, 1h`,
		},
	},
	{
		name: "OK blanks around a value",
		text: "device_id=\" tdid_1 \"",
		want: func(c *Config) { c.DeviceID = "tdid_1" },
	},
	{
		name: "OK a device id of another kind",
		text: "device_id=firewall-1",
		want: func(c *Config) { c.DeviceID = "firewall-1" },
		warn: []string{
			`t.conf:1: device_id: "firewall-1" does not look like a device id, tdid_ and letters and digits`,
		},
	},
	{
		name: "OK yes and no",
		text: "RELOAD_PF=0\nAGGREGATE=On\nUPLOAD_GZIP=TRUE\nALLOW_HTTP=off",
		want: func(c *Config) { c.ReloadPF = false; c.Aggregate = true; c.UploadGzip = true },
	},
	{
		name: "OK servers",
		text: "DNS_SERVERS='192.0.2.1 192.0.2.1:053 2001:DB8::1 [2001:db8::1] [2001:db8::1]:5353 Dns.Example.com. dns.example.com:53 fe80::1%em0 192.0.2.1'",
		want: func(c *Config) {
			c.DNSServers = []string{"192.0.2.1", "192.0.2.1:53", "2001:db8::1", "[2001:db8::1]:5353", "Dns.Example.com", "dns.example.com:53", "fe80::1%em0"}
		},
		warn: []string{
			`t.conf:1: DNS_SERVERS: "[2001:db8::1]" is given twice`,
			`t.conf:1: DNS_SERVERS: "192.0.2.1" is given twice`,
		},
	},
	{
		name: "OK durations",
		text: "POLL_INTERVAL=1w\nDNS_TIMEOUT=90s\nSHRINK_HOLD=0\nUPLOAD_INTERVAL=1h30m\nSPOOL_AGE=1d12h\nBACKFILL=0s",
		want: func(c *Config) {
			c.PollInterval = 7 * 24 * time.Hour
			c.DNSTimeout = 90 * time.Second
			c.ShrinkHold = 0
			c.UploadInterval = 90 * time.Minute
			c.SpoolAge = 36 * time.Hour
		},
	},
	{
		name: "OK sizes and percentages",
		text: "SPOOL_MAX=2g\nUPLOAD_BATCH_BYTES=70000\nMAX_SHRINK=7",
		want: func(c *Config) { c.SpoolMax = 2 << 30; c.UploadBatchBytes = 70000; c.MaxShrink = 0.07 },
	},
	{
		name: "OK exceptions",
		text: "NEVER_BLOCK='192.0.2.1 198.51.100.0/24 2001:db8::1 2001:db8::/32 192.0.2.1/32 0.0.0.0/0'",
		want: func(c *Config) {
			c.NeverBlock = []netip.Prefix{netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::1/128"), netip.MustParsePrefix("2001:db8::/32"), netip.MustParsePrefix("0.0.0.0/0")}
		},
		warn: []string{
			`t.conf:1: NEVER_BLOCK: "192.0.2.1/32" is given twice`,
			`t.conf:1: NEVER_BLOCK: 0.0.0.0/0 is every address: nothing will be blocked`,
		},
	},
	{
		name: "OK a proxy with credentials",
		text: "PROXY='socks5://me:s%40cret@[2001:db8::1]:1080/'",
		want: func(c *Config) { c.Proxy = mustURL("socks5://me:s%40cret@[2001:db8::1]:1080") },
	},
	{
		name: "OK a proxy that -n has printed",
		text: "PROXY=http://me:xxxxx@proxy.example.net:3128",
		want: func(c *Config) { c.Proxy = mustURL("http://me:xxxxx@proxy.example.net:3128") },
		warn: []string{
			`t.conf:1: PROXY: xxxxx replaces a secret that was not shown: put the secret in its place`,
		},
	},
	{
		name: "OK plain http where it is allowed",
		text: "url=http://logs.example.net:8080/x\nALLOW_HTTP=yes",
		want: func(c *Config) { c.URL = mustURL("http://logs.example.net:8080/x"); c.AllowHTTP = true },
	},
	{
		name: "OK paths are cleaned",
		text: "OUT_DIR=/var//db/\nBLOCK_FILE=/a/../b\nSPOOL_DIR=/spool/",
		want: func(c *Config) { c.OutDir = "/var/db"; c.BlockFile = "/b"; c.SpoolDir = "/spool" },
	},
	{
		name: "OK a path in the owner's language",
		text: "OUT_DIR=/var/dépôt",
		want: func(c *Config) {
			c.OutDir = "/var/dépôt"
			c.BlockFile = "/var/dépôt/ThreatSTOP-Block.pftable"
			c.AllowFile = "/var/dépôt/ThreatSTOP-Allow.pftable"
		},
	},
	{
		name: "OK hits are not reported",
		text: "# bare\nUPLOAD=no\nDNS_SERVERS=192.0.2.53\nBLOCK_LISTS=block.example.net",
		want: func(c *Config) { c.Upload = UploadNone; c.DeviceID = ""; c.URL = nil },
	},
	{
		name: "OK a source address",
		text: "SOURCE_ADDRESS=2001:db8::5\nDNS_SERVERS='192.0.2.1 dns.example.com'",
		want: func(c *Config) {
			c.SourceAddress = netip.MustParseAddr("2001:db8::5")
			c.DNSServers = []string{"192.0.2.1", "dns.example.com"}
		},
	},
	{
		name: "OK the daemon's keys",
		text: "FULL_CHECK=5m STALE_AFTER=90m KILL_STATES=yes\nUSER=_ts STATUS_GROUP=nagios\nMETRICS=127.0.0.1:9110 STATUS_PAGE=[::1]:9111\nAUTH_URL='http://auth.example.net/?a=1&b=2'",
		want: func(c *Config) {
			c.FullCheck, c.StaleAfter, c.KillStates = 5*time.Minute, 90*time.Minute, true
			c.User, c.StatusGroup = "_ts", "nagios"
			c.Metrics = netip.MustParseAddrPort("127.0.0.1:9110")
			c.StatusPage = netip.MustParseAddrPort("[::1]:9111")
			c.AuthURL = mustURL("http://auth.example.net/?a=1&b=2")
		},
	},
	{
		name: "OK metrics on IPv6 loopback",
		text: "METRICS=[::1]:9110",
		want: func(c *Config) { c.Metrics = netip.MustParseAddrPort("[::1]:9110") },
	},
	{
		name: "OK metrics for others",
		text: "METRICS=0.0.0.0:9110\nMETRICS_ANY=yes",
		want: func(c *Config) { c.Metrics, c.MetricsAny = netip.MustParseAddrPort("0.0.0.0:9110"), true },
	},
	{
		name: "OK what has no effect may hold anything",
		text: "logfile=/tmp/d\xe9p\xf4t$(date).log\nHOST=$(hostname)\nHOME2=~/x MORE=${HOST:-x}/`y`\nPOLL_INTERVAL=2h",
		want: func(c *Config) { c.PollInterval = 2 * time.Hour },
		warn: []string{
			`t.conf:2: HOST: unknown key, which has no effect`,
			`t.conf:3: HOME2: unknown key, which has no effect`,
			`t.conf:3: MORE: unknown key, which has no effect`,
		},
	},
	{
		name: "bad a key that is no plain value is used",
		text: "DIR=$(hostname)\nOUT_DIR=/var/$DIR",
		bad: []string{
			`t.conf:2: OUT_DIR: $DIR has no plain value (line 1): write its value here`,
		},
		warn: []string{
			`t.conf:1: DIR: unknown key, which has no effect`,
		},
	},
	{
		name: "bad an assignment inside a value",
		text: "MY=${OUT_DIR:=/x}\nMINE=$((MAX_ENTRIES=3))",
		bad: []string{
			`t.conf:1: MY: ${OUT_DIR:=/x} is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
			`t.conf:2: MINE: $((MAX_ENTRIES=3)) is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad a value that quotes do not help",
		text: "SPOOL_DIR=~/spool\nBLOCK_FILE=$ALLOW_FILE",
		bad: []string{
			`t.conf:1: SPOOL_DIR: an unquoted ~ is a home directory to a shell; allowed: the absolute path of a directory, at most 1023 bytes`,
			`t.conf:2: BLOCK_FILE: $ALLOW_FILE is not set above this line: put ALLOW_FILE=/var/db/ThreatSTOP-Allow.pftable there, or write its value here`,
		},
	},
	{
		name: "OK the example's values",
		text: "device_id=tdid_abcd1234\nBLOCK_LISTS='x.example.net basic.threatstop.local.'",
		want: func(c *Config) {
			c.DeviceID, c.BlockLists = "tdid_abcd1234", []string{"x.example.net", "basic.threatstop.local"}
		},
		warn: []string{
			`t.conf:1: device_id: tdid_abcd1234 is the value of the example: write your own`,
			`t.conf:2: BLOCK_LISTS: basic.threatstop.local is the value of the example: write your own`,
		},
	},
	{
		name: "bad nothing at all",
		text: "# bare",
		bad: []string{
			`t.conf: device_id: missing: the name under which hits are reported; add for example device_id=tdid_abcd1234, or UPLOAD=no to report nothing`,
			`t.conf: DNS_SERVERS: missing: the policy servers that are asked for the lists; add for example DNS_SERVERS='ts-dns.threatstop.com dns.threatstop.com'`,
			`t.conf: BLOCK_LISTS: missing: the lists of the policy that are blocked; add for example BLOCK_LISTS=basic.threatstop.local`,
			`t.conf: url: missing: the log server that hits are uploaded to; add for example url=https://logs.threatstop.com/, or UPLOAD=no to report nothing`,
		},
	},
	{
		name: "bad an unquoted URL with &",
		text: "url=https://logs.example.net/?id=1&version=2 # comment",
		bad: []string{
			`t.conf:1: url: an unquoted & ends the value: put the value in single quotes, url='https://logs.example.net/?id=1&version=2'`,
		},
	},
	{
		name: "bad an unquoted URL with a secret",
		text: "url=https://logs.example.net/?key=geheim&version=2",
		bad: []string{
			`t.conf:1: url: an unquoted & ends the value: put the value in single quotes`,
		},
	},
	{
		name: "bad an unquoted proxy with a secret",
		text: "PROXY=http://me:ge&heim@proxy:3128",
		bad: []string{
			`t.conf:1: PROXY: an unquoted & ends the value: put the value in single quotes`,
		},
	},
	{
		name: "bad an unquoted proxy with a blank",
		text: "PROXY=http://me:ge heim@proxy:3128",
		bad: []string{
			`t.conf:1: PROXY: a part of the value behind the blank is a command to a shell: put the value in single quotes`,
		},
	},
	{
		name: "bad command substitution",
		text: "device_id=$(cat /etc/tdid)",
		bad: []string{
			`t.conf:1: device_id: $(cat /etc/tdid) would run a command, and nothing is run from this file: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad command substitution in double quotes",
		text: "device_id=\"x$(cat /etc/tdid)\"",
		bad: []string{
			`t.conf:1: device_id: $(cat /etc/tdid) would run a command, and nothing is run from this file: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad backquotes",
		text: "device_id=`cat /etc/tdid`",
		bad: []string{
			"t.conf:1: device_id: `cat /etc/tdid` would run a command, and nothing is run from this file: write the value itself, in single quotes if it is meant literally",
		},
	},
	{
		name: "bad arithmetic",
		text: "MAX_ENTRIES=$((2*3))",
		bad: []string{
			`t.conf:1: MAX_ENTRIES: $((2*3)) is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad a default value",
		text: "OUT_DIR=${DIR:-/var/db}",
		bad: []string{
			`t.conf:1: OUT_DIR: ${DIR:-/var/db} is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad a length, a part",
		text: "MAX_ENTRIES=${#OUT_DIR}\nOUT_DIR=${OUT_DIR%/*}",
		bad: []string{
			`t.conf:1: MAX_ENTRIES: ${#OUT_DIR} is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
			`t.conf:2: OUT_DIR: ${OUT_DIR%/*} is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad special parameters",
		text: "device_id=$1\nOUT_DIR=/x/$$\nBLOCK_TABLE=$@",
		bad: []string{
			`t.conf:1: device_id: $1 is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
			`t.conf:2: OUT_DIR: $$ is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
			`t.conf:3: BLOCK_TABLE: $@ is more than $KEY or ${KEY} of a key set further up: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad a key that is not set",
		text: "BLOCK_FILE=$OUT_DIR/b\nALLOW_FILE=$HOME/x",
		bad: []string{
			`t.conf:1: BLOCK_FILE: $OUT_DIR is not set above this line: put OUT_DIR=/var/db there, or write its value here`,
			`t.conf:2: ALLOW_FILE: $HOME is not set above this line: set it there, or write its value here`,
		},
	},
	{
		name: "bad a refused key is not missed again",
		text: "OUT_DIR=$(x)\nBLOCK_FILE=$OUT_DIR/b\nALLOW_FILE=$BLOCK_FILE.x",
		bad: []string{
			`t.conf:1: OUT_DIR: $(x) would run a command, and nothing is run from this file: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad a home directory",
		text: "OUT_DIR=~root/db\nlogfile=a:~b",
		bad: []string{
			`t.conf:1: OUT_DIR: an unquoted ~ is a home directory to a shell; allowed: the absolute path of a directory, at most 1023 bytes`,
		},
	},
	{
		name: "bad a dollar before quotes",
		text: "device_id=$'tdid_1'\nOUT_DIR=$\"x\"",
		bad: []string{
			`t.conf:1: device_id: a $ before a quote is read differently by different shells: put the value in single quotes`,
			`t.conf:2: OUT_DIR: a $ before a quote is read differently by different shells: put the value in single quotes`,
		},
	},
	{
		name: "bad redirections",
		text: "OUT_DIR=/var/db >/dev/null\nBLOCK_TABLE=<x>\nlogfile=a<<EOF",
		bad: []string{
			`t.conf:1: OUT_DIR: an unquoted > ends the value: put the value in single quotes, OUT_DIR='/var/db >/dev/null'`,
			"t.conf:2: BLOCK_TABLE: an unquoted < ends the value; allowed: 1 to 31 letters, digits, dots, dashes and underscores",
			"t.conf:3: logfile: an unquoted < ends the value: put the value in single quotes, logfile='a<<EOF'",
		},
	},
	{
		name: "bad a pipe",
		text: "OUT_DIR=/var/db | cat\nBLOCK_TABLE=a||b",
		bad: []string{
			`t.conf:1: OUT_DIR: an unquoted | ends the value: put the value in single quotes, OUT_DIR='/var/db | cat'`,
			`t.conf:2: BLOCK_TABLE: an unquoted | ends the value; allowed: 1 to 31 letters, digits, dots, dashes and underscores`,
		},
	},
	{
		name: "bad a word behind a blank",
		text: "BLOCK_LISTS=a.example.net b.example.net",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: b.example.net behind the blank is a command to a shell: put the value in single quotes, BLOCK_LISTS='a.example.net b.example.net'`,
		},
	},
	{
		name: "bad blanks around =",
		text: "POLL_INTERVAL = 1h\nMAX_ENTRIES =5\nSPOOL_AGE= 7d",
		bad: []string{
			`t.conf:1: POLL_INTERVAL is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:2: MAX_ENTRIES is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:3: SPOOL_AGE: 7d behind the blank is a command to a shell: put the value in single quotes, SPOOL_AGE='7d'`,
		},
	},
	{
		name: "bad commands",
		text: "set -e\n. /etc/rc.conf\nreadonly POLL_INTERVAL=1h\n! POLL_INTERVAL=1h",
		bad: []string{
			`t.conf:1: set is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:2: . is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:3: readonly is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:4: ! is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad constructs",
		text: "if [ -f /x ]; then POLL_INTERVAL=1h; fi\nf() { POLL_INTERVAL=1h; }\n{ POLL_INTERVAL=1h; }\n(POLL_INTERVAL=1h)",
		bad: []string{
			`t.conf:1: if is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:2: f() is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:3: { is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:4: (POLL_INTERVAL=1h) is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad a construct over several lines",
		text: "if true\nthen\n\tPOLL_INTERVAL=1h\nfi",
		bad: []string{
			"t.conf:1: if is no assignment: only assignments KEY=value, without blanks around =, are read from this file",
			"t.conf:2: then is no assignment: only assignments KEY=value, without blanks around =, are read from this file",
			"t.conf:4: fi is no assignment: only assignments KEY=value, without blanks around =, are read from this file",
		},
	},
	{
		name: "bad an array, an addition",
		text: "BLOCK_LISTS=(a b)\nALLOW_LISTS+=x\nDNS_SERVERS[0]=x",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: an unquoted ( ends the value; allowed: DNS names, with blanks between them`,
			`t.conf:2: ALLOW_LISTS+=x is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:3: DNS_SERVERS[0]=x is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad brackets",
		text: "BLOCK_TABLE=a(b)\nlogfile=a)\nOUT_DIR=${OUT_DIR\n",
		bad: []string{
			"t.conf:1: BLOCK_TABLE: an unquoted ( ends the value; allowed: 1 to 31 letters, digits, dots, dashes and underscores",
			"t.conf:2: logfile: an unquoted ) ends the value: put the value in single quotes, logfile='a)'",
			`t.conf:3: OUT_DIR: ${OUT_DIR… is not closed on this line: write the value itself, in single quotes if it is meant literally`,
		},
	},
	{
		name: "bad export of something else",
		text: "export -p\nexport 'OUT_DIR=/x'\nexport $OUT_DIR",
		bad: []string{
			`t.conf:1: export is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:2: export is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:3: export is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad a quote that is not closed",
		text: "BLOCK_LISTS=\"a.example.net\nPOLL_INTERVAL=\"2x\"\nOUT_DIR='/x'\n",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: the quote " that opens here is not closed on this line: put another at the end of the value`,
			`t.conf:2: POLL_INTERVAL: "2x" is not valid; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad a quote that the next line closes",
		text: "BLOCK_TABLE=\"a\nALLOW_TABLE=b\"\nPOLL_INTERVAL=1s",
		bad: []string{
			`t.conf:1: BLOCK_TABLE: the quote " that opens here is not closed on this line: put another at the end of the value`,
			`t.conf:2: ALLOW_TABLE: the quote " that opens here is not closed on this line: put another at the end of the value`,
			`t.conf:3: POLL_INTERVAL: "1s" is too small; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad a quote that is not closed at the end",
		text: "url=https://logs.example.net/\ndevice_id=x\nDNS_SERVERS=192.0.2.1\nBLOCK_LISTS='a.example.net\nb.example.net",
		warn: []string{
			`t.conf:2: device_id: "x" does not look like a device id, tdid_ and letters and digits`,
		},
		bad: []string{
			`t.conf:4: BLOCK_LISTS: the quote ' that opens here is not closed on this line: put another at the end of the value`,
			`t.conf:5: b.example.net is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad names that are too long",
		text: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=1\nyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy=1 z\nOUT_DIR=$zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
		bad: []string{
			`t.conf:2: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy: z behind the blank is a command to a shell: put the value in single quotes, yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy='1 z'`,
			`t.conf:3: OUT_DIR: $zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz is not set above this line: set it there, or write its value here`,
		},
		warn: []string{
			`t.conf:1: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx: unknown key, which has no effect`,
			`t.conf:2: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy: unknown key, which has no effect`,
		},
	},
	{
		name: "bad a pattern of commands",
		text: "a && b\nc; d",
		bad: []string{
			`t.conf:1: a is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
			`t.conf:2: c; is no assignment: only assignments KEY=value, without blanks around =, are read from this file`,
		},
	},
	{
		name: "bad a mapped network wider than IPv4",
		text: "NEVER_BLOCK=::ffff:0:0/90",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "::ffff:0:0/90" has bits set behind the prefix: write ::ffc0:0:0/90 for the network or ::ffff:0.0.0.0 for the address; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad a list item with a comma",
		text: "NEVER_BLOCK='10.0.0.0/8, 192.0.2.1'",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "10.0.0.0/8," is neither an address nor a network: put blanks, not commas, between the words; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad a NUL byte",
		text: "POLL_INTERVAL=1h\nOUT_DIR=/x\x00y",
		bad: []string{
			`t.conf:2: a NUL byte: save the file as UTF-8 or ASCII text`,
		},
	},
	{
		name: "bad UTF-16",
		text: "\xff\xfeP\x00O\x00",
		bad: []string{
			`t.conf:1: a NUL byte: save the file as UTF-8 or ASCII text`,
		},
	},
	{
		name: "bad a carriage return within a line",
		text: "POLL_INTERVAL=1h\rOUT_DIR=/x",
		bad: []string{
			`t.conf:1: POLL_INTERVAL: "1h\rOUT_DIR=/x" has a character in it that cannot be printed, U+000D; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad Latin-1 in a value",
		text: "OUT_DIR=/var/d\xe9p\xf4t",
		bad: []string{
			`t.conf:1: OUT_DIR: "/var/d�p�t" has bytes in it that are not UTF-8; allowed: the absolute path of a directory, at most 1023 bytes`,
		},
	},
	{
		name: "bad a control character",
		text: "OUT_DIR='/var/\x1b[2Jdb'\nPOLL_INTERVAL='1\nh'",
		bad: []string{
			"t.conf:1: OUT_DIR: \"/var/\\x1b[2Jdb\" has a character in it that cannot be printed, U+001B; allowed: the absolute path of a directory, at most 1023 bytes",
			`t.conf:2: POLL_INTERVAL: "1…" has a line break in it; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad all errors are reported",
		text: "POLL_INTERVAL=1s\nMAX_ENTRIES=none\nAGGREGATE=maybe",
		bad: []string{
			`t.conf:1: POLL_INTERVAL: "1s" is too small; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
			`t.conf:2: MAX_ENTRIES: "none" is not valid; allowed: a whole number from 1 to 20000000`,
			`t.conf:3: AGGREGATE: "maybe" is not valid; allowed: yes or no (or true, false, on, off, 1, 0)`,
		},
	},
	{
		name: "bad durations",
		text: "POLL_INTERVAL=59s\nDNS_TIMEOUT=10\nSHRINK_HOLD=1m1h\nUPLOAD_INTERVAL=1.5h\nSPOOL_AGE=500d\nBACKFILL=99999999999d",
		bad: []string{
			`t.conf:1: POLL_INTERVAL: "59s" is too small; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
			`t.conf:2: DNS_TIMEOUT: "10" is not valid; allowed: a duration from 1s to 5m, in whole w, d, h, m or s`,
			`t.conf:3: SHRINK_HOLD: "1m1h" is not valid; allowed: a duration from 0 to 90d, in whole w, d, h, m or s`,
			`t.conf:4: UPLOAD_INTERVAL: "1.5h" is not valid; allowed: a duration from 1s to 24h, in whole w, d, h, m or s`,
			`t.conf:5: SPOOL_AGE: "500d" is too large; allowed: a duration from 1h to 366d, in whole w, d, h, m or s`,
			`t.conf:6: BACKFILL: "99999999999d" is too large; allowed: a duration from 0 to 366d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad more durations",
		text: "POLL_INTERVAL=3000000w\nDNS_TIMEOUT=100ms\nSHRINK_HOLD=-1h\nSPOOL_AGE=1y",
		bad: []string{
			`t.conf:1: POLL_INTERVAL: "3000000w" is too large; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
			`t.conf:2: DNS_TIMEOUT: "100ms" is not valid; allowed: a duration from 1s to 5m, in whole w, d, h, m or s`,
			`t.conf:3: SHRINK_HOLD: "-1h" is not valid; allowed: a duration from 0 to 90d, in whole w, d, h, m or s`,
			`t.conf:4: SPOOL_AGE: "1y" is not valid; allowed: a duration from 1h to 366d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad numbers",
		text: "MIN_PREFIX_V4=0\nMIN_PREFIX_V6=129\nMAX_ENTRIES=1e6\nUPLOAD_BATCH=99999999999\nMAX_SHRINK=101%\n",
		bad: []string{
			`t.conf:1: MIN_PREFIX_V4: "0" is too small; allowed: a whole number from 1 to 32`,
			`t.conf:2: MIN_PREFIX_V6: "129" is too large; allowed: a whole number from 1 to 128`,
			`t.conf:3: MAX_ENTRIES: "1e6" is not valid; allowed: a whole number from 1 to 20000000`,
			`t.conf:4: UPLOAD_BATCH: "99999999999" is too large; allowed: a whole number from 1 to 1000000`,
			`t.conf:5: MAX_SHRINK: "101%" is too large; allowed: a percentage from 0% to 100%, such as 50%`,
		},
	},
	{
		name: "bad sizes",
		text: "SPOOL_MAX=1000K\nUPLOAD_BATCH_BYTES=512M",
		bad: []string{
			`t.conf:1: SPOOL_MAX: "1000K" is too small; allowed: a number of bytes from 1M to 64G, with K, M or G behind it for powers of 1024`,
			`t.conf:2: UPLOAD_BATCH_BYTES: "512M" is too large; allowed: a number of bytes from 64K to 256M, with K, M or G behind it for powers of 1024`,
		},
	},
	{
		name: "bad more sizes",
		text: "SPOOL_MAX=1T\nUPLOAD_BATCH_BYTES=999999999999999999999G\n",
		bad: []string{
			`t.conf:1: SPOOL_MAX: "1T" is not valid; allowed: a number of bytes from 1M to 64G, with K, M or G behind it for powers of 1024`,
			`t.conf:2: UPLOAD_BATCH_BYTES: "999999999999999999999G" is too large; allowed: a number of bytes from 64K to 256M, with K, M or G behind it for powers of 1024`,
		},
	},
	{
		name: "bad percentages",
		text: "MAX_SHRINK=0.5",
		bad: []string{
			`t.conf:1: MAX_SHRINK: "0.5" is not valid; allowed: a percentage from 0% to 100%, such as 50%`,
		},
	},
	{
		name: "bad yes and no",
		text: "RELOAD_PF=maybe",
		bad: []string{
			`t.conf:1: RELOAD_PF: "maybe" is not valid; allowed: yes or no (or true, false, on, off, 1, 0)`,
		},
	},
	{
		name: "bad one of",
		text: "UPLOAD=some",
		bad: []string{
			`t.conf:1: UPLOAD: "some" is not valid; allowed: hits, all or no`,
		},
	},
	{
		name: "bad paths",
		text: "OUT_DIR=var/db\nBLOCK_FILE=ThreatSTOP-Block.pftable\nALLOW_FILE=/var/db/\nSPOOL_DIR=/\nCA_FILE=cert.pem",
		bad: []string{
			`t.conf:1: OUT_DIR: "var/db" does not begin with /; allowed: the absolute path of a directory, at most 1023 bytes`,
			`t.conf:2: BLOCK_FILE: "ThreatSTOP-Block.pftable" does not begin with /; allowed: the absolute path of a file, at most 1023 bytes`,
			`t.conf:3: ALLOW_FILE: "/var/db/" is not valid; allowed: the absolute path of a file, at most 1023 bytes`,
			`t.conf:4: SPOOL_DIR: "/" is the root directory; allowed: the absolute path of a directory, at most 1023 bytes`,
			`t.conf:5: CA_FILE: "cert.pem" does not begin with /; allowed: the absolute path of a file, at most 1023 bytes`,
		},
	},
	{
		name: "bad a path that is too long",
		text: "CA_FILE=/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		bad: []string{
			`t.conf:1: CA_FILE: "/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…" is not valid; allowed: the absolute path of a file, at most 1023 bytes`,
		},
	},
	{
		name: "bad table names",
		text: "BLOCK_TABLE=ThreatSTOP-Block-of-my-own-firewall\nALLOW_TABLE='<ThreatSTOP-Allow>'",
		bad: []string{
			`t.conf:1: BLOCK_TABLE: "ThreatSTOP-Block-of-my-own-firewall" is not valid; allowed: 1 to 31 letters, digits, dots, dashes and underscores`,
			`t.conf:2: ALLOW_TABLE: "<ThreatSTOP-Allow>" is not valid; allowed: 1 to 31 letters, digits, dots, dashes and underscores`,
		},
	},
	{
		name: "bad form fields",
		text: "UPLOAD_FIELD='a\"b'\nUPLOAD_ID_FIELD='a b'",
		bad: []string{
			`t.conf:1: UPLOAD_FIELD: "a\"b" is not valid; allowed: 1 to 64 letters, digits, dots, dashes, underscores and brackets`,
			`t.conf:2: UPLOAD_ID_FIELD: "a b" is not valid; allowed: 1 to 64 letters, digits, dots, dashes, underscores and brackets`,
		},
	},
	{
		name: "bad device ids",
		text: "device_id='tdid 1'",
		bad: []string{
			`t.conf:1: device_id: "tdid 1" is not valid; allowed: 1 to 128 letters, digits, dots, dashes and underscores`,
		},
	},
	{
		name: "bad interfaces",
		text: "PFLOG_IF=em0",
		bad: []string{
			`t.conf:1: PFLOG_IF: "em0" is not valid; allowed: a pflog interface, such as pflog0 or pflog1`,
		},
	},
	{
		name: "bad interfaces with zeros",
		text: "PFLOG_IF=pflog01",
		bad: []string{
			`t.conf:1: PFLOG_IF: "pflog01" is not valid; allowed: a pflog interface, such as pflog0 or pflog1`,
		},
	},
	{
		name: "bad servers",
		text: "DNS_SERVERS=192.0.2.300",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "192.0.2.300" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers with commas",
		text: "DNS_SERVERS=192.0.2.1,192.0.2.2",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "192.0.2.1,192.0.2.2" is neither an address nor a DNS name, alone or with a port from 1 to 65535: put blanks, not commas, between the words; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers with a port of 0",
		text: "DNS_SERVERS='192.0.2.1 192.0.2.2:0'",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "192.0.2.2:0" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers of IPv6 without brackets",
		text: "DNS_SERVERS=2001:db8:0:0:0:0:0:0:53",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "2001:db8:0:0:0:0:0:0:53" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers with half a bracket",
		text: "DNS_SERVERS='[2001:db8::1'",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "[2001:db8::1" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers with a name in brackets",
		text: "DNS_SERVERS='[dns.example.net]:53'",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "[dns.example.net]:53" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers that are URLs",
		text: "DNS_SERVERS=https://dns.example.net/",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "https://dns.example.net/" is neither an address nor a DNS name, alone or with a port from 1 to 65535; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers that are no host",
		text: "DNS_SERVERS=0.0.0.0",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "0.0.0.0" is no address of a host; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers in mapped form",
		text: "DNS_SERVERS=::ffff:192.0.2.1",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "::ffff:192.0.2.1" is an IPv4 address in IPv6 form: write 192.0.2.1; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad servers with a port in the zone",
		text: "DNS_SERVERS='fe80::1%em0:53'",
		bad: []string{
			`t.conf:1: DNS_SERVERS: "fe80::1%em0:53" has no interface behind %: put [ and ] around an IPv6 address with a port; allowed: addresses or names, each with :port or without, such as 192.0.2.1, 192.0.2.1:5353, [2001:db8::1]:53, dns.example.com`,
		},
	},
	{
		name: "bad list names",
		text: "BLOCK_LISTS=a..example.net\nALLOW_LISTS='*.example.net'",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: "a..example.net" is no DNS name; allowed: DNS names, with blanks between them`,
			`t.conf:2: ALLOW_LISTS: "*.example.net" is no DNS name; allowed: DNS names, with blanks between them`,
		},
	},
	{
		name: "bad list names that are addresses",
		text: "BLOCK_LISTS=192.0.2.1",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: "192.0.2.1" is no DNS name; allowed: DNS names, with blanks between them`,
		},
	},
	{
		name: "bad list names with commas",
		text: "BLOCK_LISTS=a.example.net,b.example.net",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: "a.example.net,b.example.net" is no DNS name: put blanks, not commas, between the words; allowed: DNS names, with blanks between them`,
		},
	},
	{
		name: "bad list names that are too long",
		text: "BLOCK_LISTS=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.net\nALLOW_LISTS=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy",
		bad: []string{
			`t.conf:1: BLOCK_LISTS: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx.net" is no DNS name; allowed: DNS names, with blanks between them`,
			`t.conf:2: ALLOW_LISTS: "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy.yyyyyyyyyyyyyyyyyyy…" is no DNS name; allowed: DNS names, with blanks between them`,
		},
	},
	{
		name: "bad siblings with dots",
		text: "DNS_SIBLINGS=basic1.example.net",
		bad: []string{
			`t.conf:1: DNS_SIBLINGS: "basic1.example.net" is not valid; allowed: first labels of names, each at most 63 letters, digits, dashes and underscores`,
		},
	},
	{
		name: "bad a list that blocks and allows",
		text: "BLOCK_LISTS='a.example.net b.example.net'\nALLOW_LISTS=B.example.net",
		bad: []string{
			`t.conf:2: ALLOW_LISTS: "B.example.net" is a block list and an allow list: they must differ`,
		},
	},
	{
		name: "bad one table, one file, one field",
		text: "ALLOW_TABLE=t\nBLOCK_TABLE=t\nALLOW_FILE=/var/db/ThreatSTOP-Block.pftable\nUPLOAD_FIELD=device_id",
		bad: []string{
			`t.conf:2: BLOCK_TABLE: BLOCK_TABLE and ALLOW_TABLE are both "t": they must differ`,
			`t.conf:3: ALLOW_FILE: BLOCK_FILE and ALLOW_FILE are both "/var/db/ThreatSTOP-Block.pftable": they must differ`,
			`t.conf:4: UPLOAD_FIELD: UPLOAD_FIELD and UPLOAD_ID_FIELD are both "device_id": they must differ`,
		},
	},
	{
		name: "bad a table file that is the other's temporary one",
		text: "BLOCK_FILE=/var/db/t\nALLOW_FILE=/var/db/t.new",
		bad: []string{
			`t.conf:2: ALLOW_FILE: BLOCK_FILE is written as "/var/db/t.new" before it is renamed: choose other names`,
		},
	},
	{
		name: "bad a block file that is the allow file's temporary one",
		text: "ALLOW_FILE=/var/db/t\nBLOCK_FILE=/var/db/t.new",
		bad: []string{
			`t.conf:2: BLOCK_FILE: ALLOW_FILE is written as "/var/db/t.new" before it is renamed: choose other names`,
		},
	},
	{
		name: "bad a spool among the table files",
		text: "SPOOL_DIR=/var/db/x\nBLOCK_FILE=/var/db/x/t",
		bad: []string{
			`t.conf:1: SPOOL_DIR: "/var/db/x" has the table files, and the spool belongs to another user: name a directory of its own`,
		},
	},
	{
		name: "bad a spool smaller than two uploads",
		text: "SPOOL_MAX=1M",
		bad: []string{
			`t.conf:1: SPOOL_MAX: the spool must hold two uploads: SPOOL_MAX is 1M, UPLOAD_BATCH_BYTES is 960K`,
		},
	},
	{
		name: "bad exceptions with host bits",
		text: "NEVER_BLOCK='192.0.2.1 10.1.2.3/16'",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "10.1.2.3/16" has bits set behind the prefix: write 10.1.0.0/16 for the network or 10.1.2.3 for the address; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad exceptions that are names",
		text: "NEVER_BLOCK=www.example.net",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "www.example.net" is neither an address nor a network; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad exceptions with a zone",
		text: "NEVER_BLOCK=fe80::1%em0",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "fe80::1%em0" is neither an address nor a network; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad exceptions in mapped form",
		text: "NEVER_BLOCK=::ffff:192.0.2.0/120",
		bad: []string{
			`t.conf:1: NEVER_BLOCK: "::ffff:192.0.2.0/120" is in IPv6 form what IPv4 has: write 192.0.2.0/24; allowed: addresses and networks, such as 192.0.2.1, 192.0.2.0/24, 2001:db8::/32`,
		},
	},
	{
		name: "bad a source address",
		text: "SOURCE_ADDRESS=em0",
		bad: []string{
			`t.conf:1: SOURCE_ADDRESS: "em0" is not an IPv4 or IPv6 address; allowed: one address of this host`,
		},
	},
	{
		name: "bad a source address that no server can answer",
		text: "SOURCE_ADDRESS=2001:db8::5\nDNS_SERVERS='192.0.2.1 192.0.2.2:53'",
		bad: []string{
			`t.conf:1: SOURCE_ADDRESS: "2001:db8::5" is of another address family than every server in DNS_SERVERS`,
		},
	},
	{
		name: "bad url without scheme",
		text: "url=logs.example.net/x",
		bad: []string{
			`t.conf:1: url: "logs.example.net/x" does not begin with https:// or http://; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url of plain http",
		text: "url=http://me:geheim@logs.example.net/?token=geheim",
		bad: []string{
			`t.conf:1: url: "http://xxxxx@logs.example.net/?token=xxxxx" begins with http://, and everybody on the way could read the upload; allowed: https://, or set ALLOW_HTTP=yes`,
		},
	},
	{
		name: "bad url with another scheme",
		text: "url=ftp://logs.example.net/",
		bad: []string{
			`t.conf:1: url: "ftp://logs.example.net/" does not begin with https:// or http://; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url without a host",
		text: "url=https:///x",
		bad: []string{
			`t.conf:1: url: "https:///x" has no host, or no port from 1 to 65535, behind ://; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url with a bad port",
		text: "url=https://logs.example.net:99999/",
		bad: []string{
			`t.conf:1: url: "https://logs.example.net:99999/" has no host, or no port from 1 to 65535, behind ://; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url with a fragment",
		text: "url=https://logs.example.net/#x",
		bad: []string{
			`t.conf:1: url: "https://logs.example.net/#x" has '#' in it: write it as %23; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url with a blank",
		text: "url='https://logs.example.net/a b'",
		bad: []string{
			`t.conf:1: url: "https://logs.example.net/a b" has ' ' in it: write it as %20; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad url with a bad escape",
		text: "url='https://me:100%geheim@logs.example.net/'",
		bad: []string{
			`t.conf:1: url: "https://xxxxx@logs.example.net/" is not a URL: in a name or password, write %25 for %, %2F for /, %3A for :, %40 for @; allowed: a URL that begins with https://`,
		},
	},
	{
		name: "bad proxy with a path",
		text: "PROXY=http://proxy.example.net:3128/proxy.pac",
		bad: []string{
			`t.conf:1: PROXY: "http://proxy.example.net:3128/proxy.pac" has more than host and port; allowed: a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128`,
		},
	},
	{
		name: "bad proxy of another kind",
		text: "PROXY=socks4://me:geheim@proxy.example.net",
		bad: []string{
			`t.conf:1: PROXY: "socks4://xxxxx@proxy.example.net" does not begin with http:// or https:// or socks5://; allowed: a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128`,
		},
	},
	{
		name: "bad proxy without scheme",
		text: "PROXY=me:geheim@proxy.example.net:3128",
		bad: []string{
			`t.conf:1: PROXY: "xxxxx@proxy.example.net:3128" does not begin with http:// or https:// or socks5://; allowed: a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128`,
		},
	},
	{
		name: "bad proxy with a password to be escaped",
		text: "PROXY='http://me:ge/he?im@proxy.example.net:3128'",
		bad: []string{
			`t.conf:1: PROXY: "http://xxxxx@proxy.example.net:3128" is not a URL: in a name or password, write %25 for %, %2F for /, %3A for :, %40 for @; allowed: a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128`,
		},
	},
	{
		name: "bad page for others",
		text: "STATUS_PAGE=192.0.2.1:9111\nMETRICS_ANY=yes",
		bad: []string{
			`t.conf:1: STATUS_PAGE: "192.0.2.1:9111" can be reached by other hosts; allowed: an address of loopback, such as 127.0.0.1:9111`,
		},
	},
	{
		name: "bad page on every address",
		text: "STATUS_PAGE=0.0.0.0:9111",
		bad: []string{
			`t.conf:1: STATUS_PAGE: "0.0.0.0:9111" can be reached by other hosts; allowed: an address of loopback, such as 127.0.0.1:9111`,
		},
	},
	{
		name: "bad page where the metrics are",
		text: "METRICS=127.0.0.1:9110\nSTATUS_PAGE=127.0.0.1:9110",
		bad: []string{
			`t.conf:2: STATUS_PAGE: STATUS_PAGE and METRICS are both "127.0.0.1:9110": they must differ`,
		},
	},
	{
		name: "bad metrics for others unasked",
		text: "METRICS=192.0.2.1:9110",
		bad: []string{
			`t.conf:1: METRICS: "192.0.2.1:9110" can be reached by other hosts; allowed: an address of loopback, such as 127.0.0.1:9110, or set METRICS_ANY=yes`,
		},
	},
	{
		name: "bad metrics on every address unasked",
		text: "METRICS=[::]:9110\nMETRICS_ANY=no",
		bad: []string{
			`t.conf:1: METRICS: "[::]:9110" can be reached by other hosts; allowed: an address of loopback, such as 127.0.0.1:9110, or set METRICS_ANY=yes`,
		},
	},
	{
		name: "bad metrics by name",
		text: "METRICS=localhost:9110",
		bad: []string{
			`t.conf:1: METRICS: "localhost:9110" is not an address with a port from 1 to 65535; allowed: an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110`,
		},
	},
	{
		name: "bad metrics without a port",
		text: "METRICS=127.0.0.1",
		bad: []string{
			`t.conf:1: METRICS: "127.0.0.1" is not an address with a port from 1 to 65535; allowed: an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110`,
		},
	},
	{
		name: "bad metrics on port 0",
		text: "METRICS=127.0.0.1:0",
		bad: []string{
			`t.conf:1: METRICS: "127.0.0.1:0" is not an address with a port from 1 to 65535; allowed: an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110`,
		},
	},
	{
		name: "bad metrics on a multicast address",
		text: "METRICS=224.0.0.1:9110\nMETRICS_ANY=yes",
		bad: []string{
			`t.conf:1: METRICS: "224.0.0.1:9110" is no address of a host; allowed: an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110`,
		},
	},
	{
		name: "bad metrics in IPv6 form",
		text: "METRICS=[::ffff:127.0.0.1]:9110",
		bad: []string{
			`t.conf:1: METRICS: "[::ffff:127.0.0.1]:9110" is an IPv4 address in IPv6 form: write 127.0.0.1; allowed: an address of this host and a port, such as 127.0.0.1:9110 or [::1]:9110`,
		},
	},
	{
		name: "bad user and group",
		text: "USER=0\nSTATUS_GROUP='my group'",
		bad: []string{
			`t.conf:1: USER: "0" is not valid; allowed: 1 to 31 letters, digits, dots, dashes and underscores, no digit, dot or dash first`,
			`t.conf:2: STATUS_GROUP: "my group" is not valid; allowed: 1 to 31 letters, digits, dots, dashes and underscores, no digit, dot or dash first`,
		},
	},
	{
		name: "bad a user of 32 bytes",
		text: "USER=" + strings.Repeat("u", 32),
		bad: []string{
			`t.conf:1: USER: "uuuuuuuuuuuuuuuuuuuuuuuuuuuuuuuu" is not valid; allowed: 1 to 31 letters, digits, dots, dashes and underscores, no digit, dot or dash first`,
		},
	},
	{
		name: "bad lists that are stale at once",
		text: "POLL_INTERVAL=2h\nSTALE_AFTER=1h",
		bad: []string{
			`t.conf:2: STALE_AFTER: lists would be stale before they are fetched again: STALE_AFTER is 1h, POLL_INTERVAL is 2h`,
		},
	},
	{
		name: "bad checks too often",
		text: "FULL_CHECK=10s",
		bad: []string{
			`t.conf:1: FULL_CHECK: "10s" is too small; allowed: a duration from 1m to 7d, in whole w, d, h, m or s`,
		},
	},
	{
		name: "bad authorisation page",
		text: "AUTH_URL=ftp://auth.example.net/",
		bad: []string{
			`t.conf:1: AUTH_URL: "ftp://auth.example.net/" does not begin with https:// or http://; allowed: a URL that begins with https:// or http://`,
		},
	},
}

// A line that an error advises to write is accepted.
func TestAdviceIsAccepted(t *testing.T) {
	advised := regexp.MustCompile(`(?:single quotes, |add for example |there: put |: put )([A-Za-z_]+=[^,]*?)(?: there.*)?$`)
	n := 0
	for _, tt := range cases {
		_, _, err := Parse("t.conf", strings.NewReader(complete(tt.text)))
		var all Errors
		errors.As(err, &all)
		for _, e := range all {
			if m := advised.FindStringSubmatch(e.Text); m != nil {
				n++
				if _, _, err := Parse("t.conf", strings.NewReader(complete(m[1]))); err != nil {
					t.Errorf("%s: %s: %v", tt.name, e.Text, err)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("%d lines were advised", n)
	}
}

// Slips are what the owner has to correct, and nothing else.
func TestSlips(t *testing.T) {
	for text, want := range map[string]bool{
		"NEVERBLOCK=10.0.0.0/8": true, "device_id=tdid_abcd1234": true, "BLOCK_LISTS=basic.threatstop.local.": true,
		"version=1": false, "OUTDIR=/x\nBLOCK_FILE=$OUTDIR/b": false, "POLL_INTERVAL=": false, "device_id=x": false,
	} {
		_, warnings, err := Parse("t.conf", strings.NewReader(complete(text)))
		if err != nil || len(warnings) != 1 || warnings[0].Slip != want {
			t.Errorf("%q: %v, %+v", text, err, warnings)
		}
	}
}

func TestParse(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			c, warnings, err := Parse("t.conf", strings.NewReader(complete(tt.text)))
			errs, warns := said(warnings, err)
			if diff := cmp.Diff(tt.bad, errs); diff != "" {
				t.Errorf("errors (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.warn, warns); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			if (c == nil) != (err != nil) {
				t.Fatalf("Config %v with error %v", c, err)
			}
			if c == nil {
				return
			}
			want := base()
			if tt.want != nil {
				tt.want(want)
			}
			if diff := cmp.Diff(want, c, exact); diff != "" {
				t.Errorf("Config (-want +got):\n%s", diff)
			}
		})
	}
}
