// Package reporttest has a log server for tests and demonstrations: it takes batches
// over HTTPS on 127.0.0.1, keeps a receipt of each, and fails on demand in the ways
// that servers and networks fail.
package reporttest

import (
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// A Fault is a way to fail.
type Fault uint8

const (
	// None takes the batch and answers 200.
	None Fault = iota
	// Refuse does not listen: connections are refused.
	Refuse
	// Hang accepts, reads nothing and never answers.
	Hang
	// Status answers with Failure.Status, having read the batch and thrown it
	// away. With Failure.RetryAfter the header is set.
	Status
	// Reset reads a part of the body and resets the connection.
	Reset
	// Late takes the batch and keeps a receipt, but answers only after
	// Failure.Delay.
	Late
	// Redirect answers with Failure.Status and Failure.Location.
	Redirect
	// Drip answers 200 and then sends the body without end, a byte at a time.
	Drip
)

// A Failure is a Fault with its particulars.
type Failure struct {
	Fault      Fault
	Status     int
	RetryAfter string
	Delay      time.Duration
	Location   string
	// Times is how many requests fail so before the collector is well again,
	// 0 for all until the next Fail. It does not apply to Refuse.
	Times int
}

// A Receipt is a batch that was taken.
type Receipt struct {
	// Batch is the id in the request's header, Device the form's device id.
	Batch, Device string
	// Text is the file's content, decompressed.
	Text string
	// FileName and ContentType are what the file part says.
	FileName, ContentType string
	UserAgent             string
	// Auth is the Authorization header.
	Auth string
	// From is the peer's address with port.
	From string
	Time time.Time
}

// Lines returns the text's lines.
func (r *Receipt) Lines() []string {
	return strings.Split(strings.TrimSuffix(r.Text, "\n"), "\n")
}

// Options for [Start].
type Options struct {
	// Plain serves http instead of https.
	Plain bool
	// FileField and DeviceField are the form's fields, "" for "upload_file"
	// and "device_id".
	FileField, DeviceField string
	// MaxTLS limits the version of TLS, 0 for no limit.
	MaxTLS uint16
}

// A Collector is a running log server.
type Collector struct {
	o     Options
	addr  string
	caPEM []byte
	tls   *tls.Config

	mu       sync.Mutex
	srv      *http.Server
	failure  Failure
	receipts []Receipt
	requests int
	changed  chan struct{}
	release  chan struct{} // closed to let hanging requests go
	done     sync.WaitGroup
}

// Start starts a collector on a port of its own.
func Start(o Options) (*Collector, error) {
	if o.FileField == "" {
		o.FileField = "upload_file"
	}
	if o.DeviceField == "" {
		o.DeviceField = "device_id"
	}
	c := &Collector{o: o, addr: "127.0.0.1:0", changed: make(chan struct{}), release: make(chan struct{})}
	if !o.Plain {
		var err error
		if c.caPEM, c.tls, err = certificates(); err != nil {
			return nil, fmt.Errorf("collector: %w", err)
		}
		c.tls.MaxVersion = o.MaxTLS
		if o.MaxTLS != 0 && o.MaxTLS < tls.VersionTLS12 {
			c.tls.MinVersion = tls.VersionTLS10
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.listen(); err != nil {
		return nil, err
	}
	return c, nil
}

// certificates makes an authority and a certificate of it for 127.0.0.1.
func certificates() ([]byte, *tls.Config, error) {
	now := time.Now()
	issue := func(serial int64, t, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey, error) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, nil, err
		}
		t.SerialNumber = big.NewInt(serial)
		t.NotBefore, t.NotAfter = now.Add(-24*time.Hour), now.Add(10*365*24*time.Hour)
		t.BasicConstraintsValid = true
		if parent == nil {
			parent, signer = t, key
		}
		der, err := x509.CreateCertificate(rand.Reader, t, parent, &key.PublicKey, signer)
		return der, key, err
	}
	ca := &x509.Certificate{
		Subject: pkix.Name{CommonName: "log collector's authority"}, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, caKey, err := issue(1, ca, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "log collector"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, DNSNames: []string{"localhost"},
	}
	der, key, err := issue(2, leaf, ca, caKey)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}, nil
}

// listen starts serving; the second time it takes the port that it had.
func (c *Collector) listen() error {
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		return fmt.Errorf("collector: %w", err)
	}
	c.addr = l.Addr().String()
	if c.tls != nil {
		l = tls.NewListener(l, c.tls)
	}
	c.srv = &http.Server{Handler: c, ErrorLog: log.New(io.Discard, "", 0)}
	srv := c.srv
	c.done.Add(1)
	go func() {
		defer c.done.Done()
		srv.Serve(l)
	}()
	return nil
}

// URL returns where to post to. It stays the same over Refuse.
func (c *Collector) URL() string {
	if c.tls == nil {
		return "http://" + c.addr + "/upload"
	}
	return "https://" + c.addr + "/upload"
}

// WriteCA writes the certificate to trust to a file.
func (c *Collector) WriteCA(path string) error { return os.WriteFile(path, c.caPEM, 0o644) }

// Fail makes requests from now on fail in the given way, and lets those go that hang.
// Failure{} makes the collector well. The error is one of listening again.
func (c *Collector) Fail(f Failure) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = f
	close(c.release)
	c.release = make(chan struct{})
	if f.Fault == Refuse {
		c.stop()
		return nil
	}
	if c.srv == nil {
		return c.listen()
	}
	return nil
}

func (c *Collector) stop() {
	if c.srv != nil {
		c.srv.Close()
		c.srv = nil
	}
}

// Receipts returns what was taken so far, oldest first.
func (c *Collector) Receipts() []Receipt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Receipt(nil), c.receipts...)
}

// Requests returns how many requests came, answered well or not.
func (c *Collector) Requests() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.requests
}

// Wait waits until ok says yes to the receipts so far, and returns ctx's error if it
// ends first.
func (c *Collector) Wait(ctx context.Context, ok func([]Receipt) bool) error {
	for {
		c.mu.Lock()
		changed := c.changed
		r := append([]Receipt(nil), c.receipts...)
		c.mu.Unlock()
		if ok(r) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close stops the collector.
func (c *Collector) Close() {
	c.mu.Lock()
	close(c.release)
	c.release = make(chan struct{})
	c.stop()
	c.mu.Unlock()
	c.done.Wait()
}

// next returns how the next request is to fail.
func (c *Collector) next() (Failure, chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
	f := c.failure
	if f.Fault != None && f.Times > 0 {
		if c.failure.Times--; c.failure.Times == 0 {
			c.failure = Failure{}
		}
	}
	return f, c.release
}

// ServeHTTP takes one request.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f, release := c.next()
	switch f.Fault {
	case Hang:
		// The answer that will not be sent is not even begun.
		<-release
		abort(w)
		return
	case Reset:
		io.CopyN(io.Discard, r.Body, max(1, r.ContentLength/2))
		abort(w)
		return
	case Status:
		io.Copy(io.Discard, r.Body)
		if f.RetryAfter != "" {
			w.Header().Set("Retry-After", f.RetryAfter)
		}
		http.Error(w, "not today", f.Status)
		return
	case Redirect:
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", f.Location)
		w.WriteHeader(f.Status)
		return
	}
	receipt, err := c.parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	c.receipts = append(c.receipts, receipt)
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
	switch f.Fault {
	case Late:
		select {
		case <-release:
		case <-time.After(f.Delay):
		}
	case Drip:
		for range 1000 {
			if _, err := io.WriteString(w, "."); err != nil {
				return
			}
			http.NewResponseController(w).Flush()
			select {
			case <-release:
				return
			case <-r.Context().Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
		return
	}
	fmt.Fprintf(w, "received %d bytes\n", len(receipt.Text))
}

// abort resets the connection instead of closing it.
func abort(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	raw := conn
	if t, ok := conn.(*tls.Conn); ok {
		raw = t.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	raw.Close()
}

func (c *Collector) parse(r *http.Request) (Receipt, error) {
	out := Receipt{
		Batch: r.Header.Get("X-Threatstop-Batch"), UserAgent: r.UserAgent(), Auth: r.Header.Get("Authorization"),
		From: r.RemoteAddr, Time: time.Now(),
	}
	if r.Method != http.MethodPost {
		return out, fmt.Errorf("method %s", r.Method)
	}
	kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/form-data" {
		return out, fmt.Errorf("content type %q", r.Header.Get("Content-Type"))
	}
	seen := false
	for parts := multipart.NewReader(r.Body, params["boundary"]); ; {
		p, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return out, err
		}
		var content io.Reader = p
		if p.FormName() == c.o.FileField && p.Header.Get("Content-Type") == "application/gzip" {
			if content, err = gzip.NewReader(p); err != nil {
				return out, err
			}
		}
		b, err := io.ReadAll(content)
		if err != nil {
			return out, err
		}
		switch p.FormName() {
		case c.o.FileField:
			out.Text, out.FileName, out.ContentType = string(b), p.FileName(), p.Header.Get("Content-Type")
			seen = true
		case c.o.DeviceField:
			out.Device = string(b)
		default:
			return out, fmt.Errorf("unexpected form field %q", p.FormName())
		}
	}
	if !seen {
		return out, fmt.Errorf("no form field %q", c.o.FileField)
	}
	return out, nil
}
