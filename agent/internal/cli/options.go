package cli

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os/user"
	"strconv"
	"strings"

	"github.com/rs/zerolog"

	"example.org/threatstopd/agent/internal/apply"
	"example.org/threatstopd/agent/internal/config"
	"example.org/threatstopd/agent/internal/policy"
	"example.org/threatstopd/agent/internal/privsep"
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
	if host, _, err := net.SplitHostPort(s); err == nil {
		return host
	}
	return strings.Trim(s, "[]")
}

// pflogdInterface is what pflogd(8) reads, unless its flags say otherwise.
const pflogdInterface = "pflog0"

// reporting is what the role that reports needs to know; service is the confinement of the service user.
func reporting(c *config.Config, service privsep.Confinement, level zerolog.Level) report.Config {
	r := report.Config{Mode: string(c.Upload), Interface: c.PflogIf, LogLevel: int(level), Confinement: service}
	x := &r.Confinement
	x.Memory, x.Paths = privsep.Memory(c.MaxEntries), map[string]string{"SPOOL_DIR": "", "CA_FILE": ""}
	if c.Upload == config.UploadNone {
		return r
	}
	x.Paths["SPOOL_DIR"], x.Paths["CA_FILE"] = c.SpoolDir, c.CAFile
	x.Names = isName(c.URL.Hostname()) || c.Proxy != nil && isName(c.Proxy.Hostname())
	x.Memory += 10 * uint64(c.UploadBatchBytes) // batches that wait in memory, and one that is sent
	r.Interval, r.BatchLines, r.BatchBytes = c.UploadInterval, c.UploadBatch, int(c.UploadBatchBytes)
	r.SpoolDir, r.SpoolMax, r.SpoolAge, r.Backfill = c.SpoolDir, c.SpoolMax, c.SpoolAge, c.Backfill
	r.URL, r.DeviceID, r.FileField, r.DeviceField = c.URL.String(), c.DeviceID, c.UploadField, c.UploadIDField
	r.Gzip, r.Version, r.Source, r.CAFile = c.UploadGzip, shortVersion(), c.SourceAddress, c.CAFile
	if c.Proxy != nil {
		r.Proxy = c.Proxy.String()
	}
	if r.LogFile = c.PflogFile; c.PflogIf != pflogdInterface {
		r.LogFile, r.NoLogs = "", fmt.Sprintf("pflogd logs %s, not %s", pflogdInterface, c.PflogIf)
	}
	return r
}

// serviceUser returns the confinement of a process that becomes a user, or stays what it is if there is no such user.
func serviceUser(name string) (c privsep.Confinement) {
	u, err := user.Lookup(name)
	if err != nil {
		return c
	}
	uid, errU := strconv.Atoi(u.Uid)
	gid, errG := strconv.Atoi(u.Gid)
	if errU == nil && errG == nil {
		c.UID, c.GID = uid, gid
	}
	return c
}

// fetchConfinement is that of the role that fetches and looks up names, as the service user.
func fetchConfinement(c *config.Config, service privsep.Confinement) privsep.Confinement {
	service.Memory = privsep.Memory(c.MaxEntries)
	for _, r := range reach(c) {
		service.Names = service.Names || isName(r.Host)
	}
	return service
}

// isName reports whether host is a name, not an address.
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil
}
