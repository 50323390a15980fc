package config

import (
	_ "embed"
	"regexp"
	"strings"
	"time"
)

// example has every key once: what every installation sets as a line to fill in, the others behind a # with
// their defaults. threatstop.conf.example is a copy of it.
//
//go:embed example.conf
var example string

// Example returns a commented threatstop.conf.
func Example() string { return example }

var exampleLine = regexp.MustCompile(`(?m)^#?(\w+)=.*$`)

// Fill returns the example with other values, by key.
func Fill(values map[string]string) string {
	return exampleLine.ReplaceAllStringFunc(example, func(line string) string {
		key, _, _ := strings.Cut(strings.TrimPrefix(line, "#"), "=")
		if value, ok := values[key]; ok {
			line = key + "=" + quote(value)
		}
		return line
	})
}

// Key is a row of the table of keys. What a key is for stands in example.conf.
type Key struct {
	Name    string
	Default string // as one would write it in the file, unquoted; empty is none. It may refer to $OUT_DIR
	Example string // a value for a key that has no default
	Need    string // what a required key is needed for; empty for an optional one
	kind
	hits        bool // the key is needed for reporting hits only
	Placeholder bool // the owner must replace Example by a value of their own
	unused      bool // the key has no effect
}

// Keys returns all keys in the order in which the file explains them.
func Keys() []Key { return keysOf(new(Config)) }

const (
	day = 24 * time.Hour
	mib = 1 << 20
)

// keysOf is the one place that knows the keys. Each row reads and writes its field of c. A default may use
// $OUT_DIR, so that one comes first.
func keysOf(c *Config) []Key {
	return []Key{
		{Name: "device_id", Example: "tdid_abcd1234", Need: "the name under which hits are reported",
			kind: deviceID(&c.DeviceID), hits: true, Placeholder: true},
		{Name: "DNS_SERVERS", Example: "ts-dns.threatstop.com dns.threatstop.com",
			Need: "the policy servers that are asked for the lists", kind: servers(&c.DNSServers)},
		{Name: "BLOCK_LISTS", Example: "basic.threatstop.local", Need: "the lists of the policy that are blocked",
			kind: names(&c.BlockLists), Placeholder: true},
		{Name: "ALLOW_LISTS", kind: names(&c.AllowLists)},
		{Name: "POLL_INTERVAL", Default: "1h", kind: duration(&c.PollInterval, time.Minute, 7*day)},
		{Name: "STALE_AFTER", Default: "0", kind: duration(&c.StaleAfter, 0, 90*day)},
		{Name: "DNS_TIMEOUT", Default: "10s", kind: duration(&c.DNSTimeout, time.Second, 5*time.Minute)},
		{Name: "DNS_SIBLINGS", Default: "basic1 basic2 basic3 basic4", kind: labels(&c.DNSSiblings)},
		{Name: "SOURCE_ADDRESS", kind: hostAddr(&c.SourceAddress)},
		{Name: "OUT_DIR", Default: "/var/db", kind: filePath(&c.OutDir, "directory")},
		{Name: "BLOCK_FILE", Default: "$OUT_DIR/ThreatSTOP-Block.pftable", kind: filePath(&c.BlockFile, "file")},
		{Name: "ALLOW_FILE", Default: "$OUT_DIR/ThreatSTOP-Allow.pftable", kind: filePath(&c.AllowFile, "file")},
		{Name: "BLOCK_TABLE", Default: "ThreatSTOP-Block", kind: tableName(&c.BlockTable)},
		{Name: "ALLOW_TABLE", Default: "ThreatSTOP-Allow", kind: tableName(&c.AllowTable)},
		{Name: "RELOAD_PF", Default: "yes", kind: yesNo(&c.ReloadPF)},
		{Name: "FULL_CHECK", Default: "15m", kind: duration(&c.FullCheck, time.Minute, 7*day)},
		{Name: "NEVER_BLOCK", kind: networks(&c.NeverBlock)},
		{Name: "MAX_SHRINK", Default: "50%", kind: percent(&c.MaxShrink)},
		{Name: "SHRINK_HOLD", Default: "24h", kind: duration(&c.ShrinkHold, 0, 90*day)},
		{Name: "MIN_PREFIX_V4", Default: "8", kind: count(&c.MinPrefixV4, 1, 32)},
		{Name: "MIN_PREFIX_V6", Default: "16", kind: count(&c.MinPrefixV6, 1, 128)},
		{Name: "MAX_ENTRIES", Default: "4000000", kind: count(&c.MaxEntries, 1, 20_000_000)},
		{Name: "AGGREGATE", Default: "no", kind: yesNo(&c.Aggregate)},
		{Name: "KILL_STATES", Default: "no", kind: yesNo(&c.KillStates)},
		{Name: "UPLOAD", Default: "hits", kind: oneOf(&c.Upload, "hits, all or no",
			map[string]UploadMode{"hits": UploadHits, "all": UploadAll, "no": UploadNone}, asText[UploadMode])},
		{Name: "PFLOG_IF", Default: "pflog0", kind: matching(&c.PflogIf, pflogForm, "a pflog interface, such as pflog0 or pflog1")},
		{Name: "pflog", Default: "/var/log/pflog", kind: filePath(&c.PflogFile, "file")},
		{Name: "BACKFILL", Default: "0", kind: duration(&c.Backfill, 0, 366*day)},
		{Name: "url", Example: "https://logs.threatstop.com/", Need: "the log server that hits are uploaded to",
			kind: address(&c.URL, "a URL that begins with https://", true, "https", "http"), hits: true},
		{Name: "UPLOAD_INTERVAL", Default: "15m", kind: duration(&c.UploadInterval, time.Second, day)},
		{Name: "UPLOAD_BATCH", Default: "10000", kind: count(&c.UploadBatch, 1, 1_000_000)},
		// With the form around it, below the 1 MiB that a web server in front of an application takes by default.
		{Name: "UPLOAD_BATCH_BYTES", Default: "960K", kind: size(&c.UploadBatchBytes, 64<<10, 256*mib)},
		{Name: "UPLOAD_FIELD", Default: "upload_file", kind: fieldName(&c.UploadField)},
		{Name: "UPLOAD_ID_FIELD", Default: "device_id", kind: fieldName(&c.UploadIDField)},
		{Name: "UPLOAD_GZIP", Default: "no", kind: yesNo(&c.UploadGzip)},
		{Name: "PROXY", kind: address(&c.Proxy,
			"a URL of http, https or socks5, of host and port, such as http://192.0.2.1:3128", false, "http", "https", "socks5")},
		{Name: "CA_FILE", kind: filePath(&c.CAFile, "file")},
		{Name: "ALLOW_HTTP", Default: "no", kind: yesNo(&c.AllowHTTP)},
		{Name: "SPOOL_DIR", Default: "/var/spool/threatstop", kind: filePath(&c.SpoolDir, "directory")},
		{Name: "SPOOL_MAX", Default: "64M", kind: size(&c.SpoolMax, mib, 64<<30)},
		{Name: "SPOOL_AGE", Default: "7d", kind: duration(&c.SpoolAge, time.Hour, 366*day)},
		{Name: "USER", Default: "_threatstop", kind: account(&c.User)},
		{Name: "STATUS_GROUP", kind: account(&c.StatusGroup)},
		{Name: "METRICS", kind: listener(&c.Metrics)},
		{Name: "METRICS_ANY", Default: "no", kind: yesNo(&c.MetricsAny)},
		{Name: "STATUS_PAGE", kind: listener(&c.StatusPage)},
		{Name: "AUTH_URL", kind: address(&c.AuthURL, "a URL that begins with https:// or http://", true, "https", "http")},
		// Left from older installations.
		{Name: "logfile", kind: anything(), unused: true},
	}
}

// known has the keys for what does not need a Config.
var known = Keys()

// find returns the row of a key, or nil.
func find(name string) *Key {
	for i := range known {
		if known[i].Name == name {
			return &known[i]
		}
	}
	return nil
}

// nearest returns the known key that name was probably meant to be, or "": one letter in three may be
// wrong, two at most, capitals aside.
func nearest(name string) string {
	for edits := 0; edits <= 2; edits++ {
		for _, k := range known {
			if 3*edits <= len(k.Name) && within(strings.ToLower(name), strings.ToLower(k.Name), edits) {
				return k.Name
			}
		}
	}
	return ""
}

// within reports whether so many letters inserted, deleted or replaced make b of a.
func within(a, b string, edits int) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	if a == "" || b == "" || edits == 0 {
		return len(a)+len(b) <= edits
	}
	return within(a[1:], b, edits-1) || within(a, b[1:], edits-1) || within(a[1:], b[1:], edits-1)
}
