//go:build tools

// Package tools names one package of each module whose CustomResourceDefinitions manifests are held to.
package tools

import (
	_ "github.com/cert-manager/cert-manager/pkg/apis"
	_ "github.com/external-secrets/external-secrets/pkg/controllers/metrics"
	_ "github.com/sigstore/policy-controller/config"
	_ "sigs.k8s.io/aws-load-balancer-controller/pkg/version"
)
