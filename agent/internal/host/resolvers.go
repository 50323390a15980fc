package host

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// ResolverFiles name resolvers of this host: its own, and the forwarders of a local resolver.
var ResolverFiles = []string{"/etc/resolv.conf", "/etc/unwind.conf", "/var/unbound/etc/unbound.conf"}

const (
	// maxResolverFile is more than anybody's file has, in bytes.
	maxResolverFile = 1 << 20
	// maxResolvers is how many resolvers one file may name. Those in resolv.conf may come from any DHCP server
	// on the link, and each is an exception to the policy.
	maxResolvers = 32
)

// Resolvers returns the resolvers that files name, each once and sorted. The kind of a file is its base name. A
// file that does not exist names none. unseen is what is not followed: included files, since a confined process
// cannot open them, and resolvers beyond the first 32 of a file.
func Resolvers(files []string) (all []netip.Addr, unseen []string, err error) {
	for _, path := range files {
		text, err := readConf(path)
		if err != nil {
			return nil, nil, err
		}
		found, includes := parseResolvers(path, text)
		if len(found) > maxResolvers {
			unseen = append(unseen, fmt.Sprintf("%s names %d resolvers: only the first %d are never blocked",
				path, len(found), maxResolvers))
		}
		for _, i := range includes {
			unseen = append(unseen, fmt.Sprintf("%s includes %s, which is not read", path, i))
		}
		all = append(all, found[:min(len(found), maxResolvers)]...)
	}
	return unique(all), unseen, nil
}

func readConf(path string) (string, error) {
	// Without O_NONBLOCK open would wait for the writer of a FIFO.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxResolverFile+1))
	if len(text) > maxResolverFile {
		return "", fmt.Errorf("%s: larger than %d bytes", path, maxResolverFile)
	}
	return string(text), err
}

// parseResolvers returns the resolvers that a file names, in its order, each once, and the files that it includes.
func parseResolvers(path, text string) (all []netip.Addr, includes []string) {
	parse := parseResolv
	switch {
	case strings.HasSuffix(path, "unwind.conf"):
		parse = parseUnwind
	case strings.HasSuffix(path, "unbound.conf"):
		parse = parseUnbound
	}
	words, includes := parse(text)
	seen := make(map[netip.Addr]bool)
	for _, w := range words {
		if host, _, err := net.SplitHostPort(w); err == nil {
			w = host // OpenBSD's resolv.conf may have [address]:port
		}
		a, err := netip.ParseAddr(w)
		if a = a.WithZone("").Unmap(); err == nil && !seen[a] {
			seen[a], all = true, append(all, a)
		}
	}
	return all, includes
}

// parseResolv reads resolv.conf(5). While unwind(8) runs, resolvd(8) comments out the resolvers behind it:
// "#nameserver 192.0.2.53 # resolvd: em0". A nameserver in another comment is not one.
func parseResolv(text string) (addrs, includes []string) {
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) > 1 && (w[0] == "nameserver" || w[0] == "#nameserver" && strings.Contains(line, "# resolvd: ")) {
			addrs = append(addrs, w[1])
		}
	}
	return addrs, nil
}

// The forms of unwind.conf(5) and unbound.conf(5) that name resolvers and files.
var (
	unwindComment   = regexp.MustCompile(`("[^"\n]*")|#[^\n]*|\\\n`)
	unwindMacro     = regexp.MustCompile(`(?m)^\s*(\w+)\s*=\s*"?([^"\s]+)`)
	unwindForwarder = regexp.MustCompile(`\bforwarder\s*(\{[^}]*\}?|[^\n{]*)`)
	unwindInclude   = regexp.MustCompile(`(?m)^\s*include\s+"?([^"\s]+)`)
	unwindWord      = regexp.MustCompile(`[^\s{}"]+`)
	unboundComment  = regexp.MustCompile(`(?m)(^|\s)#.*$`)
	unboundAddr     = regexp.MustCompile(`(?:^|\s)(?:forward|stub)-addr:\s+"?([^"\s@#]+)`)
	unboundInclude  = regexp.MustCompile(`(?:^|\s)include(?:-toplevel)?:\s+"?([^"\s]+)`)
)

// groups returns the first group of each match.
func groups(form *regexp.Regexp, text string) (all []string) {
	for _, m := range form.FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	return all
}

// parseUnwind reads unwind.conf(5): the addresses behind forwarder, alone or in braces, and macros.
func parseUnwind(text string) (addrs, includes []string) {
	text = unwindComment.ReplaceAllString(text, "$1 ")
	macros := make(map[string]string)
	for _, m := range unwindMacro.FindAllStringSubmatch(text, -1) {
		macros["$"+m[1]] = m[2]
	}
	for _, f := range groups(unwindForwarder, text) {
		for _, word := range unwindWord.FindAllString(f, -1) {
			if value, ok := macros[word]; ok {
				word = value
			}
			addrs = append(addrs, word)
		}
	}
	return addrs, groups(unwindInclude, text)
}

// parseUnbound reads unbound.conf(5): each "forward-addr: address[@port][#name]", and each stub-addr.
func parseUnbound(text string) (addrs, includes []string) {
	text = unboundComment.ReplaceAllString(text, "")
	return groups(unboundAddr, text), groups(unboundInclude, text)
}

// unique sorts a and drops repetitions.
func unique(a []netip.Addr) []netip.Addr {
	slices.SortFunc(a, netip.Addr.Compare)
	return slices.Compact(a)
}
