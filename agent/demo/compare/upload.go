package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"example.org/threatstopd/agent/internal/report"
	"example.org/threatstopd/agent/reporttest"
)

// uploadPackets are as many as a busy firewall blocks in a quarter of an hour,
// after which the vendor's loop uploads them.
const uploadPackets = 10_000

// compareUpload sends the text of packets to a log server.
func compareUpload(ctx context.Context, dir string, o *options, t *table) error {
	pflog, file, ca := filepath.Join(dir, "pflog.upload"), filepath.Join(dir, "upload.txt"), filepath.Join(dir, "ca.pem")
	if err := writePflog(pflog, uploadPackets); err != nil {
		return err
	}
	text, err := exec.CommandContext(ctx, o.agent, "--read", pflog).Output()
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	collector, err := reporttest.Start(reporttest.Options{})
	if err != nil {
		return err
	}
	defer collector.Close()
	if err := collector.WriteCA(ca); err != nil {
		return err
	}
	const device = "tdid_compare01"
	seen := 0
	check := func() error {
		all := collector.Receipts()
		if len(all) != seen+1 || all[seen].Text != string(text) || all[seen].Device != device {
			return fmt.Errorf("another result: the log server has %d uploads, not %d, or not the text", len(all), seen+1)
		}
		seen++
		return nil
	}
	theirs := &contestant{
		name: "curl",
		run: func(ctx context.Context) (took, error) {
			return process(ctx, nil, dir, "curl", "-sSf", "--cacert", ca, "-o", os.DevNull,
				"-F", "device_id="+device, "-F", "upload_file=@"+file+";type=text/plain", collector.URL())
		},
		check: check,
	}
	ours := &contestant{
		name: "upload",
		run: func(ctx context.Context) (took, error) {
			// A client of its own for each, so that a connection is made.
			c, err := report.NewUploader(report.Config{URL: collector.URL(), DeviceID: device, CAFile: ca})
			if err != nil {
				return took{}, err
			}
			began := time.Now()
			err = c.Send(ctx, report.ID{byte(seen)}, text)
			return took{wall: time.Since(began)}, err
		},
		check: check,
	}
	if err := race(ctx, o.rounds, theirs, ours); err != nil {
		return err
	}
	t.row(fmt.Sprintf("upload of %d lines (%d bytes): curl", uploadPackets, len(text)), theirs, ours, 0)
	return nil
}
