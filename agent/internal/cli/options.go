package cli

import (
	"fmt"
	"net/netip"
	"net/url"
	"os/user"
	"strconv"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/internal/sources"
	"example.org/threatstopd/dnsfetch"
	"example.org/threatstopd/pfioctl"
)

// The configuration is cut here into what each package needs to know of it.

func fetchOptions(c *config.Config) dnsfetch.Options {
	return dnsfetch.Options{
		Servers:    c.DNSServers,
		Source:     c.SourceAddress,
		Timeout:    c.DNSTimeout,
		Siblings:   c.DNSSiblings,
		MaxEntries: c.MaxEntries,
	}
}

func sourcesOptions(c *config.Config) sources.Options {
	return sources.Options{Block: c.BlockLists, Allow: c.AllowLists, NeverBlock: c.NeverBlock, Reach: reach(c)}
}

func applyOptions(c *config.Config, env Env) apply.Options {
	return apply.Options{
		Policy: policy.Options{MinPrefixV4: c.MinPrefixV4, MinPrefixV6: c.MinPrefixV6, Aggregate: c.Aggregate, MaxEntries: c.MaxEntries},
		Guard:  policy.Guard{MaxShrink: c.MaxShrink, Hold: c.ShrinkHold},
		Block:  apply.Target{Table: pfioctl.Table{Name: c.BlockTable}, File: c.BlockFile, Load: c.ReloadPF},
		Allow:  apply.Target{Table: pfioctl.Table{Name: c.AllowTable}, File: c.AllowFile, Load: c.ReloadPF},
		Now:    env.Now,
	}
}

// reach lists the servers that the policy must not cut off.
func reach(c *config.Config) []sources.Reach {
	var all []sources.Reach
	for _, s := range c.DNSServers {
		all = append(all, sources.Reach{Role: "policy server", Host: serverHost(s)})
	}
	for _, u := range []struct {
		role string
		*url.URL
	}{{"log server", c.URL}, {"proxy", c.Proxy}} {
		if u.URL != nil {
			all = append(all, sources.Reach{Role: u.role, Host: u.Hostname()})
		}
	}
	return all
}

// serverHost takes the port off a server as DNS_SERVERS has it.
func serverHost(s string) string {
	if _, err := netip.ParseAddr(s); err == nil {
		return s
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr().String()
	}
	u := url.URL{Host: s}
	return u.Hostname()
}

// reporting is what the role that reports needs to know.
func reporting(c *config.Config, level zerolog.Level) report.Config {
	r := report.Config{Mode: string(c.Upload), Interface: c.PflogIf, LogLevel: int(level)}
	if c.Upload == config.UploadNone {
		return r
	}
	r.Interval, r.BatchLines, r.BatchBytes = c.UploadInterval, c.UploadBatch, int(c.UploadBatchBytes)
	r.SpoolDir, r.SpoolMax, r.SpoolAge, r.Backfill = c.SpoolDir, c.SpoolMax, c.SpoolAge, c.Backfill
	r.URL, r.DeviceID, r.FileField, r.DeviceField = c.URL.String(), c.DeviceID, c.UploadField, c.UploadIDField
	r.Gzip, r.Version, r.Source, r.CAFile = c.UploadGzip, shortVersion(), c.SourceAddress, c.CAFile
	if c.Proxy != nil {
		r.Proxy = c.Proxy.String()
	}
	if c.PflogIf == pflogdInterface {
		r.LogFile = c.PflogFile
	} else {
		r.NoLogs = fmt.Sprintf("pflogd logs %s, not %s", pflogdInterface, c.PflogIf)
	}
	return r
}

// pflogdInterface is what pflogd reads unless its flags say otherwise
// (pflogd(8)).
const pflogdInterface = "pflog0"

// account is a user's numbers, 0 when there is no such user.
type account struct{ uid, gid int }

func lookupUser(name string) account {
	u, err := user.Lookup(name)
	if err != nil {
		return account{}
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	if errU != nil || errG != nil {
		return account{}
	}
	return account{uid, gid}
}
